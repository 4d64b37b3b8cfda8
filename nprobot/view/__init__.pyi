"""Public names of the package; `__init__.py` imports each on first use."""

from .controls import Control as Control
from .controls import ControlGroup as ControlGroup
from .controls import controls_of as controls_of
from .controls import with_value as with_value
from .live_loop import LiveLoop as LiveLoop
from .live_robot import LiveRobot as LiveRobot
from .remote_page import RemotePage as RemotePage
