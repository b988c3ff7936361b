"""Native kernels: arrays in, arrays out. Knows no ``Tensor`` and no gradient graph."""

from lucid.kernels.convolution import algorithm, conv_forward, conv_grad_input, conv_grad_weight
from lucid.kernels.runtime.memory import empty

__all__ = ["algorithm", "conv_forward", "conv_grad_input", "conv_grad_weight", "empty"]
