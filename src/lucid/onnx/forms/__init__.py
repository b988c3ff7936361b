"""What each operation is in ONNX, a family a file."""

from lucid.onnx.forms import elementwise, layers, pooling, reductions, shapes
from lucid.onnx.forms.table import FORMS

__all__ = ["FORMS", "elementwise", "layers", "pooling", "reductions", "shapes"]
