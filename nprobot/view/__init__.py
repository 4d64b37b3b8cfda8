"""The live page in the browser: a robot to look at, to push and to break; needs `nprobot[view]`."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
