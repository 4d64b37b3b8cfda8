"""nprobot: robot controllers that learn without backpropagation.

Importing it registers the environments and loads nothing heavy; everything else, torch included, is
imported on first use.
"""

from .ctrl_c import is_the_program, leave_while_importing

if is_the_program():
    leave_while_importing()

import lazy_loader as lazy

from . import envs as envs

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
