"""Public names of the package; `__init__.py` imports each on first use."""

from . import actuators as actuators
from . import datasets as datasets
from . import robots as robots
from .action_chunks import ActionChunks as ActionChunks
from .actuators import NoisyActuators as NoisyActuators
from .actuators import NoisyActuatorsVector as NoisyActuatorsVector
from .timestep import TimeStep as TimeStep
from .timestep import time_step as time_step

ARM_TRACK: str
ROBOT: str
ROBOT_ENVIRONMENTS: dict[str, dict[str, str]]
ENVIRONMENTS: dict[str, tuple[str, int | None]]
VECTOR_ENTRY_POINTS: dict[str, str]
OPTIONAL_ENVIRONMENTS: dict[str, tuple[str, int | None]]
