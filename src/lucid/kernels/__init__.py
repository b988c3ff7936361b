"""Native kernels: arrays in, arrays out. Knows no ``Tensor`` and no gradient graph."""

from lucid.kernels.convolution import (
    Call,
    Ending,
    algorithm,
    call_of,
    conv_forward,
    conv_forward_ended,
    conv_grad_input,
    conv_grad_input_ended,
    conv_grad_weight,
    conv_grad_weight_bias,
    conv_gradients,
    gives_both,
)
from lucid.kernels.plan import Epilogue
from lucid.kernels.runtime.memory import empty

__all__ = [
    "Call",
    "Ending",
    "Epilogue",
    "algorithm",
    "call_of",
    "conv_forward",
    "conv_forward_ended",
    "conv_grad_input",
    "conv_grad_input_ended",
    "conv_grad_weight",
    "conv_grad_weight_bias",
    "conv_gradients",
    "empty",
    "gives_both",
]
