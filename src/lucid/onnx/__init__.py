"""Trained models as ONNX files, which other runtimes read. Needs ``pip install 'lucid-conv[onnx]'``."""

from lucid.onnx.export import export

__all__ = ["export"]
