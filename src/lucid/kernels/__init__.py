"""Native kernels: arrays in, arrays out. Knows no ``Tensor`` and no gradient graph."""

from lucid.kernels.algorithms.reference import conv_forward, conv_grad_input, conv_grad_weight

__all__ = ["conv_forward", "conv_grad_input", "conv_grad_weight"]
