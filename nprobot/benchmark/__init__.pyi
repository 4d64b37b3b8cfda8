"""Public names of the package; `__init__.py` imports each on first use."""

from .execution import execute as execute
from .methods import Method as Method
from .methods import RunSpec as RunSpec
from .page import report as report
from .peers import METHODS as METHODS
from .results import Results as Results
from .rows import read as read
from .running import Processes as Processes
from .running import Ray as Ray
from .running import bench as bench
from .running import plan as plan
from .suite import Suite as Suite
from .suite import load as load
from .suite import parse as parse
