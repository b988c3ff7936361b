"""Convolution layers that end with an activation, and may add a residual before it."""

from __future__ import annotations

from typing import Any, ClassVar

from lucid.nn.functional._arguments import SizeArgument
from lucid.nn.functional.fused import finish_of
from lucid.nn.modules import activation as layers
from lucid.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    _Conv,
    _Convolution,
    _ConvTranspose,
)
from lucid.nn.modules.module import Module
from lucid.ops.conv import Finish
from lucid.tensor import Tensor

#: Activations that a convolution can end with: their functions' names, and the parameters of both.
FUSIBLE: dict[type[Module], tuple[str, tuple[str, ...]]] = {
    layers.ReLU: ("relu", ()),
    layers.ReLU6: ("relu6", ()),
    layers.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    layers.SiLU: ("silu", ()),
    layers.GELU: ("gelu", ("approximate",)),
    layers.ELU: ("elu", ("alpha",)),
    layers.SELU: ("selu", ()),
    layers.Mish: ("mish", ()),
    layers.Softplus: ("softplus", ("beta", "threshold")),
    layers.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    layers.Hardswish: ("hardswish", ()),
    layers.Hardsigmoid: ("hardsigmoid", ()),
    layers.Sigmoid: ("sigmoid", ()),
    layers.Tanh: ("tanh", ()),
}


def fusible_activation(layer: Module) -> bool:
    """Whether a convolution can end with this layer, and nobody would notice."""
    return type(layer) in FUSIBLE and not layer.is_watched


class _Fused(_Convolution):
    plain: ClassVar[type[_Convolution]]

    activation: Module | None

    def __init__(self, *args: Any, activation: Module | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._end_with(activation)

    def _end_with(self, activation: Module | None) -> None:
        if activation is not None and type(activation) not in FUSIBLE:
            known = ", ".join(kind.__name__ for kind in FUSIBLE)
            raise TypeError(f"{type(self).__name__}: activation={activation!r} must be None or one of {known}")
        self.activation = activation

    @classmethod
    def of(cls, conv: _Convolution, activation: Module | None) -> Any:
        """The fused layer with the arguments and the parameters of a plain one, which it shares."""
        fused = cls.__new__(cls)
        Module.__init__(fused)
        for name, value in conv.__dict__.items():
            if name not in ("_kinds", "_computed", "_watchers"):
                fused.__dict__[name] = value
        fused._kinds.update(conv._kinds)
        fused._computed.update(conv._computed)
        fused._end_with(activation)
        return fused

    def _finish(self, residual: Tensor | None) -> Finish | None:
        if self.activation is None:
            return finish_of(type(self).__name__, None, {}, residual=residual)
        name, parameters = FUSIBLE[type(self.activation)]
        values = {p: getattr(self.activation, p) for p in parameters}
        return finish_of(type(self).__name__, name, values, residual=residual)


class _FusedConv(_Fused, _Conv):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(conv(input) + residual)."""
        return self.finished(input, self._finish(residual))


class _FusedConvTranspose(_Fused, _ConvTranspose):
    def forward(self, input: Tensor, output_size: SizeArgument | None = None, residual: Tensor | None = None) -> Tensor:
        """activation(conv_transpose(input) + residual); ``output_size`` as in the plain layer."""
        return self.finished(input, self._finish(residual), output_size)


class FusedConv1d(_FusedConv):
    """A ``Conv1d`` that ends with an activation, in the same pass: activation(conv(x) + residual).

    Arguments as in ``Conv1d``, and ``activation``, a layer without parameters such as ``LeakyReLU(0.1)``. Its state
    dict is that of the ``Conv1d``. For inference: where a gradient is recorded, it is mostly computed in steps.

    >>> from lucid.nn import LeakyReLU
    >>> FusedConv1d(4, 8, 3, padding=1, activation=LeakyReLU(0.1))
    FusedConv1d(
      4, 8, kernel_size=(3,), stride=(1,), padding=(1,)
      (activation): LeakyReLU(negative_slope=0.1)
    )
    """

    rank = 1
    plain = Conv1d


class FusedConv2d(_FusedConv):
    """A ``Conv2d`` that ends with an activation, in the same pass; see ``FusedConv1d``."""

    rank = 2
    plain = Conv2d


class FusedConv3d(_FusedConv):
    """A ``Conv3d`` that ends with an activation, in the same pass; see ``FusedConv1d``."""

    rank = 3
    plain = Conv3d


class FusedConvTranspose1d(_FusedConvTranspose):
    """A ``ConvTranspose1d`` that ends with an activation, in the same pass; see ``FusedConv1d``."""

    rank = 1
    plain = ConvTranspose1d


class FusedConvTranspose2d(_FusedConvTranspose):
    """A ``ConvTranspose2d`` that ends with an activation, in the same pass; see ``FusedConv1d``."""

    rank = 2
    plain = ConvTranspose2d


class FusedConvTranspose3d(_FusedConvTranspose):
    """A ``ConvTranspose3d`` that ends with an activation, in the same pass; see ``FusedConv1d``."""

    rank = 3
    plain = ConvTranspose3d


#: The fused layer of every plain one.
FUSED: dict[type[Module], type[_Fused]] = {
    kind.plain: kind
    for kind in (
        FusedConv1d,
        FusedConv2d,
        FusedConv3d,
        FusedConvTranspose1d,
        FusedConvTranspose2d,
        FusedConvTranspose3d,
    )
}
