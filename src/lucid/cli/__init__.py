"""The command ``lucid``."""
