"""Public names of the package; `__init__.py` imports each on first use."""

from .inspection import RobotDescription as RobotDescription
from .inspection import inspect_robot as inspect_robot
from .model_loading import ROBOTS as ROBOTS
from .reward_terms import TERMS as TERMS
from .robot_env import RobotEnv as RobotEnv
from .robot_sensing import PARTS as PARTS
from .robot_state import RobotState as RobotState
from .robot_task import TASKS as TASKS
from .robot_task import RobotTask as RobotTask
from .robot_task import load_task as load_task
from .robot_vector import RobotVectorEnv as RobotVectorEnv
