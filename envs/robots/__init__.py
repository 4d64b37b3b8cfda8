"""Robots from MJCF files: what is in them, and tasks for them. Everything on first use."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
