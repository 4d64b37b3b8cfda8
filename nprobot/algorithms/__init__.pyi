"""Public names of the package; `__init__.py` imports each on first use."""

from .nrl import NRL as NRL
from .nrl_reinforce import REINFORCE as REINFORCE
from .ppo import PPO as PPO
from .sac import SAC as SAC
from .td3 import TD3 as TD3
