"""Models of noisy actuators and the wrappers that put them before a robot."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
