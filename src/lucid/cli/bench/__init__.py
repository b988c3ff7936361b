"""Wall-clock comparison of convolution layers with other libraries: the command ``lucid bench``."""
