"""Helpers for whole networks: gradients and parameters together, layers fused, weights parametrized."""

from lucid.core.absent import missing
from lucid.nn.utils import fusion, parametrizations, parametrize
from lucid.nn.utils.fusion import fuse, fuse_conv_bn_eval, fuse_conv_bn_weights, fuse_modules
from lucid.nn.utils.parameters import (
    clip_grad_norm_,
    clip_grad_value_,
    parameters_to_vector,
    vector_to_parameters,
)
from lucid.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from lucid.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "fuse",
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_modules",
    "fusion",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "remove_spectral_norm",
    "remove_weight_norm",
    "spectral_norm",
    "vector_to_parameters",
    "weight_norm",
]

__getattr__ = missing("lucid.nn.utils")
