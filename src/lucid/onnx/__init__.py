"""Trained models as ONNX files, which other runtimes read. Needs ``pip install 'lucid-conv[onnx]'``."""

from lucid.onnx.export import export, is_in_onnx_export

__all__ = ["export", "is_in_onnx_export"]
