"""Public names of the package; `__init__.py` imports each on first use."""

from .study import TrainingRuns as TrainingRuns
from .study import search as search
from .tune_config import TuneConfig as TuneConfig
