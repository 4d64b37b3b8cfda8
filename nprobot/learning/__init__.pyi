"""Public names of the package; `__init__.py` imports each on first use."""

from .activity import Activity as Activity
from .alignment import Alignment as Alignment
from .alignment import alignment as alignment
from .captured_step import CapturedStep as CapturedStep
from .nodes import NodeLayer as NodeLayer
from .nodes import layer_kind as layer_kind
from .noisy_network import NoisyNetwork as NoisyNetwork
from .rule import LearningRule as LearningRule
from .rule import Loss as Loss
from .rule import PerturbationRule as PerturbationRule
from .rules import learning_rule as learning_rule
