"""Reading and writing: safetensors files and trees of state, every write atomic."""

from lucid.io.atomic import atomic_write
from lucid.io.safetensors import load_file, load_metadata, save_file
from lucid.io.state import load, save

__all__ = ["atomic_write", "load", "load_file", "load_metadata", "save", "save_file"]
