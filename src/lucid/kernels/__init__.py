"""Native kernels: arrays in, arrays out. Knows no ``Tensor`` and no gradient graph."""

from lucid.kernels.convolution import (
    Ending,
    algorithm,
    conv_forward,
    conv_forward_ended,
    conv_grad_input,
    conv_grad_input_ended,
    conv_grad_weight,
    conv_grad_weight_bias,
    sums_in_one_pass,
)
from lucid.kernels.plan import Epilogue
from lucid.kernels.runtime.memory import empty

__all__ = [
    "Ending",
    "Epilogue",
    "algorithm",
    "conv_forward",
    "conv_forward_ended",
    "conv_grad_input",
    "conv_grad_input_ended",
    "conv_grad_weight",
    "conv_grad_weight_bias",
    "empty",
    "sums_in_one_pass",
]
