"""Public names of the package; `__init__.py` imports each on first use."""

from .api import fit as fit
from .api import network_for as network_for
from .api import resume as resume
from .config import FitConfig as FitConfig
from .controller import export_model as export_model
from .controller import feedforward_policy as feedforward_policy
from .folder import FitFolder as FitFolder
from .model import Model as Model
from .model import load as load
from .model import save as save
from .objectives import ClassificationScore as ClassificationScore
from .objectives import RegressionScore as RegressionScore
from .reporting import FitProgress as FitProgress
from .reporting import FitReporter as FitReporter
from .result import FitResult as FitResult
from .tracking import Tracking as Tracking
from .tracking import track as track
