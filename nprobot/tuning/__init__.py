"""Search for settings: the tuner behind `nprobot tune`.

`search` needs Optuna (`pip install 'nprobot[tune]'`); nothing else here does.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
