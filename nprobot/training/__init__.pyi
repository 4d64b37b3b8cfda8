"""Public names of the package; `__init__.py` imports each on first use."""

from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .evaluation import run_episodes as run_episodes
from .from_policy import Start as Start
from .run_config import AlgorithmOptions as AlgorithmOptions
from .run_config import LearningOptions as LearningOptions
from .run_config import NetworkOptions as NetworkOptions
from .run_config import RunConfig as RunConfig
from .run_folder import RunFolder as RunFolder
from .training_run import Result as Result
from .training_run import resume as resume
from .training_run import train as train
