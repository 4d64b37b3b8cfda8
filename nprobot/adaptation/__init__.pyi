"""Public names of the package; `__init__.py` imports each on first use."""

from .config import AdaptationConfig as AdaptationConfig
from .faults import ActuatorFault as ActuatorFault
from .faults import usual_faults as usual_faults
from .learner import check_trainable as check_trainable
from .run import Adapted as Adapted
from .run import adapt as adapt
from .run import save_adapted as save_adapted
