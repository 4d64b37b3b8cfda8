"""Regression data: recorded from a robot's model, read from files, or cloned from a policy."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
