"""Public names of the package; `__init__.py` imports each on first use."""

from . import adaptation as adaptation
from . import algorithms as algorithms
from . import benchmark as benchmark
from . import catalogue as catalogue
from . import defaults as defaults
from . import deploy as deploy
from . import envs as envs
from . import errors as errors
from . import learning as learning
from . import policies as policies
from . import regression as regression
from . import training as training
from . import tuning as tuning
from .algorithms.nrl import NRL as NRL
from .algorithms.ppo import PPO as PPO
from .algorithms.sac import SAC as SAC
from .algorithms.td3 import TD3 as TD3
from .deploy.policy_folder import export as export
from .deploy.policy_folder import from_policy as from_policy
from .learning.alignment import Alignment as Alignment
from .learning.alignment import alignment as alignment
from .learning.captured_step import CapturedStep as CapturedStep
from .learning.noisy_network import NoisyNetwork as NoisyNetwork
from .learning.rule import LearningRule as LearningRule
from .learning.rules import learning_rule as learning_rule
from .policies.chip.contract import Chip as Chip
from .regression import fit as fit
from .training.vector import make_vec as make_vec

__version__: str
