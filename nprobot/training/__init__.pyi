"""Public names of the package; `__init__.py` imports each on first use."""

from .config import AlgorithmOptions as AlgorithmOptions
from .config import LearningOptions as LearningOptions
from .config import NetworkOptions as NetworkOptions
from .config import RunConfig as RunConfig
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .evaluation import run_episodes as run_episodes
from .folder import RunFolder as RunFolder
from .run import Result as Result
from .run import resume as resume
from .run import train as train
