"""Regression and classification with any learning rule: fits, models, and their use on the arm."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
