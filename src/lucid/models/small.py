"""Networks that train in seconds: the ones behind ``lucid train``."""

from __future__ import annotations

import lucid.nn as nn


class DigitsNet(nn.Sequential):
    """Three 3×3 convolutions, 1-32-64-64 channels, for 8×8 images; 58,634 parameters.

    Shape: (N, 1, 8, 8) gives (N, classes) scores.

    >>> import lucid
    >>> DigitsNet()(lucid.zeros(2, 1, 8, 8)).shape
    (2, 10)
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 2 * 2, classes),
        )


class VowelsNet(nn.Sequential):
    """Three convolutions over time and a mean over time, for signals of any length; 37,769 parameters.

    Shape: (N, channels, L) gives (N, classes) scores.
    Source: Wang, Yan & Oates, arXiv:1611.06455, made smaller.

    >>> import lucid
    >>> VowelsNet()(lucid.zeros(2, 12, 29)).shape
    (2, 9)
    """

    def __init__(self, channels: int = 12, classes: int = 9) -> None:
        super().__init__(
            nn.Conv1d(channels, 64, 5, padding=2),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Conv1d(64, 64, 5, padding=2),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Conv1d(64, 64, 3, padding=1),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64, classes),
        )
