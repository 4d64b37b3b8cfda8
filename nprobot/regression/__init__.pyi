"""Public names of the package; `__init__.py` imports each on first use."""

from .config import FitConfig as FitConfig
from .controller import export_model as export_model
from .controller import feedforward_policy as feedforward_policy
from .folder import FitFolder as FitFolder
from .learner import ClassificationScore as ClassificationScore
from .learner import RegressionScore as RegressionScore
from .model import FittedModel as FittedModel
from .model import load as load
from .model import save as save
from .run import FitResult as FitResult
from .run import fit as fit
from .run import network_for as network_for
from .run import resume as resume
from .tracking import Tracking as Tracking
from .tracking import track as track
