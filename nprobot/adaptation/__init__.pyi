"""Public names of the package; `__init__.py` imports each on first use."""

from .adaptation_config import AdaptationConfig as AdaptationConfig
from .adaptation_run import Adapted as Adapted
from .adaptation_run import adapt as adapt
from .adaptation_run import save_adapted as save_adapted
from .faults import ActuatorFault as ActuatorFault
from .faults import usual_faults as usual_faults
from .robot_learner import check_trainable as check_trainable
