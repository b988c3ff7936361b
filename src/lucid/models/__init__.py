"""Families of networks."""

from lucid.models.small import DigitsNet, VowelsNet

__all__ = ["DigitsNet", "VowelsNet"]
