"""Tuned settings that come with nprobot: a table a task, an entry for each algorithm and rule.

`nprobot train` takes them for the options that it is not given; `nprobot tune` makes them.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
