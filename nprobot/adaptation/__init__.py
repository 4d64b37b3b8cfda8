"""A trained policy continues to learn on a robot whose actuators become faulty."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
