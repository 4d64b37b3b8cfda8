"""Public names of the package; `__init__.py` imports each on first use."""

from .settings import GENERAL as GENERAL
from .settings import PARALLEL as PARALLEL
from .settings import TUNED as TUNED
from .settings import TunedDefaults as TunedDefaults
from .settings import TunedScore as TunedScore
from .settings import choose as choose
from .settings import file_name as file_name
from .settings import fill as fill
from .settings import find as find
from .settings import known as known
from .settings import load as load
from .settings import parallel_settings as parallel_settings
from .settings import save as save
from .zoo_settings import zoo_settings as zoo_settings
