"""Public names of the package; `__init__.py` imports each on first use."""

from .crossbar import off_chip_copy as off_chip_copy
from .crossbar import on_chip as on_chip
from .crossbar import put_on_chip as put_on_chip
from .crossbar import restore_chip as restore_chip
from .crossbar import save_chip as save_chip
from .nonidealities import MODELS as MODELS
from .nonidealities import PRESETS as PRESETS
from .nonidealities import ChipModel as ChipModel
from .nonidealities import ChipSpec as ChipSpec
from .nonidealities import ConductanceDrift as ConductanceDrift
from .nonidealities import Converter as Converter
from .nonidealities import DeadNodes as DeadNodes
from .nonidealities import GaussianNoise as GaussianNoise
from .nonidealities import MultiplicativeNoise as MultiplicativeNoise
from .nonidealities import Offset as Offset
from .nonidealities import OrnsteinUhlenbeckNodeNoise as OrnsteinUhlenbeckNodeNoise
from .nonidealities import ReadNoise as ReadNoise
from .nonidealities import TelegraphNodeNoise as TelegraphNodeNoise
from .nonidealities import WeightMismatch as WeightMismatch
from .nonidealities import resolve as resolve
