"""Public names of the package; `__init__.py` imports each on first use."""

from .controller import Controller as Controller
from .controller import load_policy as load_policy
from .flight_recorder import FlightRecord as FlightRecord
from .flight_recorder import FlightRecorder as FlightRecorder
from .flight_recorder import Replay as Replay
from .flight_recorder import replay as replay
from .loop_timing import LatencySummary as LatencySummary
from .loop_timing import Watchdog as Watchdog
from .policy_folder import export as export
from .policy_folder import export_run as export_run
from .rendering import Film as Film
from .rendering import choose_backend as choose_backend
from .rendering import film_episode as film_episode
from .safety import ControlFault as ControlFault
from .safety import Damping as Damping
from .safety import FaultKind as FaultKind
from .safety import Hold as Hold
from .safety import Safety as Safety
from .safety import Zero as Zero
from .server import PolicyServer as PolicyServer
from .simulation import Episode as Episode
from .simulation import SimulatedRobot as SimulatedRobot
from .simulation import deploy_episodes as deploy_episodes
from .simulation import make_robot as make_robot
