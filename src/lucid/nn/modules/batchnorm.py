"""Batch normalisation, where PyTorch has it; ``isinstance(m, _BatchNorm)`` tells it from other layers."""

from lucid.nn.modules.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, _BatchNorm

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "_BatchNorm"]
