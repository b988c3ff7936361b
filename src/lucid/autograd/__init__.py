"""Gradients: the graph, the backward pass, and the one door (``apply``) every operation goes through."""

from lucid.autograd.anomaly import detect_anomaly, set_detect_anomaly
from lucid.autograd.check import check_grads, gradcheck, gradgradcheck
from lucid.autograd.engine import backward, grad, set_implicit_gradient
from lucid.autograd.function import Function
from lucid.autograd.hooks import RemovableHandle
from lucid.autograd.listening import listening
from lucid.autograd.mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from lucid.autograd.op import Op, apply
from lucid.autograd.tracked import Node, Tracked, Variable

__all__ = [
    "Function",
    "Node",
    "Op",
    "RemovableHandle",
    "Tracked",
    "Variable",
    "apply",
    "backward",
    "check_grads",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "listening",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "set_implicit_gradient",
]
