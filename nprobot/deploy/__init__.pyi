"""Public names of the package; `__init__.py` imports each on first use."""

from .controller import Controller as Controller
from .controller import DeployablePolicy as DeployablePolicy
from .export import export_run as export_run
from .faults import Fault as Fault
from .faults import FaultKind as FaultKind
from .flight import Episode as Episode
from .flight import fly as fly
from .flight_recorder import FlightRecord as FlightRecord
from .flight_recorder import FlightRecorder as FlightRecorder
from .latency import LatencySummary as LatencySummary
from .policies import load_policy as load_policy
from .rendering import Film as Film
from .rendering import choose_backend as choose_backend
from .replaying import Replay as Replay
from .replaying import replay as replay
from .robot import Robot as Robot
from .robot import make_robot as make_robot
from .safe_actions import Damping as Damping
from .safe_actions import Hold as Hold
from .safe_actions import Zero as Zero
from .safety import Safety as Safety
from .server import PolicyServer as PolicyServer
from .watchdog import Watchdog as Watchdog
