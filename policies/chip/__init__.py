"""Emulated chips: layers that compute with noise that nobody can read."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
