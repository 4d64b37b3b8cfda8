"""Public names of the package; `__init__.py` imports each on first use."""

from .demonstrated import CloneShape as CloneShape
from .demonstrated import cloning_rows as cloning_rows
from .demonstrated import read_demonstrations as read_demonstrations
from .fit_config import FitConfig as FitConfig
from .fit_folder import FitFolder as FitFolder
from .fit_learner import ClassificationScore as ClassificationScore
from .fit_learner import RegressionScore as RegressionScore
from .fit_run import FitResult as FitResult
from .fit_run import fit as fit
from .fit_run import network_for as network_for
from .fit_run import resume as resume
from .model import FittedModel as FittedModel
from .model import load as load
from .model import save as save
from .model_export import export_model as export_model
from .model_export import feedforward_policy as feedforward_policy
from .tracking import Tracking as Tracking
from .tracking import track as track
