"""fmrifm: foundation models of brain activity in JAX and Flax."""

__version__ = "0.1.0"
