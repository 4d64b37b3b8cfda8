"""Public names of the package; `__init__.py` imports each on first use."""

from . import activations as activations
from . import chip as chip
from . import zoo as zoo
from .files.from_sb3 import export_policy as export_policy
from .files.from_sb3 import load_trusted_sb3_zip as load_trusted_sb3_zip
from .files.onnx_file import OnnxPolicy as OnnxPolicy
from .files.onnx_file import load_onnx as load_onnx
from .files.onnx_file import save_onnx as save_onnx
from .files.policy import BoxAction as BoxAction
from .files.policy import ControlTask as ControlTask
from .files.policy import DiscreteAction as DiscreteAction
from .files.policy import Normaliser as Normaliser
from .files.policy import Operation as Operation
from .files.policy import Policy as Policy
from .files.policy_file import load as load
from .files.policy_file import save as save
from .files.torch_policy import TorchPolicy as TorchPolicy
from .layers import BiasHead as BiasHead
from .layers import DecorrelatedConv2d as DecorrelatedConv2d
from .layers import DecorrelatedLinear as DecorrelatedLinear
from .layers import decorrelate as decorrelate
from .layers import fold as fold
from .layers import is_decorrelated as is_decorrelated
from .networks import ACTIVATIONS as ACTIVATIONS
from .networks import mlp as mlp
