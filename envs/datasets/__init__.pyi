"""Public names of the package; `__init__.py` imports each on first use."""

from .baselines import linear_regression as linear_regression
from .baselines import mean_predictor as mean_predictor
from .baselines import moments as moments
from .baselines import nmse as nmse
from .cloning import from_minari as from_minari
from .cloning import from_policy as from_policy
from .data_checks import look_over as look_over
from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .loaders import load as load
from .loaders import load_npz as load_npz
from .loaders import load_sarcos as load_sarcos
from .loaders import load_table as load_table
from .recording import TASKS as TASKS
from .recording import Recording as Recording
from .recording import Task as Task
from .recording import cache_folder as cache_folder
from .recording import forward_kinematics as forward_kinematics
from .recording import inverse_dynamics as inverse_dynamics
from .recording import inverse_kinematics as inverse_kinematics
from .recording import make as make
from .splitting import split_rows as split_rows
