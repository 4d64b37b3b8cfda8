"""Public names of the package; `__init__.py` imports each on first use."""

from .engine import Processes as Processes
from .execution import execute as execute
from .ray_engine import Ray as Ray
from .reporting import report as report
from .results import Results as Results
from .running import bench as bench
from .running import plan as plan
from .spec import RunSpec as RunSpec
from .store import read as read
from .suite import Suite as Suite
from .suite import load as load
from .suite import parse as parse
