"""Layers: modules that hold parameters and call ``nn.functional``."""
