"""`policy.onnx`: a policy as one ONNX graph, with normaliser and action scaling inside it.

The graph takes raw observations as float64, ``(batch, *observation)``, because that is what
simulators give and `Policy.predict` normalises, and gives actions inside their bounds. What a robot
has to know beside the graph (control rate, bounds, provenance) is in the file's metadata as JSON.

Writing needs torch and the packages of the extra ``onnx``, reading `onnxruntime` alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import (
    DamagedFileError,
    FileError,
    ForeignFileError,
    MissingPackageError,
    NotFoundError,
)
from .onnx_graph import OPERATORS, operators
from .policy import (
    LARGEST,
    Array,
    BoxAction,
    ControlTask,
    DiscreteAction,
    Policy,
    as_batch,
    check_provenance,
    choices_problem,
    holds_an_action,
    shape_problem,
)
from .policy_file import as_damaged, check_format, read_task
from .reading import check_texts, memory_limit, read_file

FORMAT = "nprobot-policy-onnx"
VERSION = 1
ONNX_FILE = "policy.onnx"
OPSET = 18
"""Version of the operators in the graph; the oldest that torch writes."""
MEMORY = 2**30
"""Bytes beyond what the process has that onnxruntime may take to read a graph and try it."""
TOLERANCE = 1e-5
"""Largest difference between the actions of two forms of a policy."""


def save_onnx(policy: Policy, path: str | Path) -> float:
    """Write a policy as an ONNX file, checked against the policy itself.

    Args:
        policy: the policy.
        path: the file, or the folder that gets a `policy.onnx`.

    Returns:
        Largest difference of an action of the file to `policy.predict` on random observations.

    Raises:
        MissingPackageError: a package of the extra ``onnx`` is not installed.
        FileError: the difference is above 1e-5; nothing is written.
    """
    data = _exported(policy)
    difference = check_agreement(policy, _read(data, "the new file").predict)
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return difference


def load_onnx(path: str | Path) -> OnnxPolicy:
    """Read an ONNX file that `save_onnx` wrote.

    What the runtime evaluates is the file's own graph: it loads no plug-ins and no other files. A
    graph by somebody else may still never end; for policies of strangers there are policy files.

    Args:
        path: the file, or the folder with its `policy.onnx`.

    Raises:
        MissingPackageError: `onnxruntime` is not installed.
        NotFoundError: there is no such file.
        ForeignFileError: the file is not one of ours.
        NewerFileError: a newer version of nprobot wrote it.
        DamagedFileError: it is incomplete, altered or contradicts itself.
    """
    file = _file(path)
    try:
        data = read_file(file, LARGEST)
    except FileNotFoundError:
        raise NotFoundError(
            f"no ONNX policy at {file}; `nprobot export RUN --onnx` makes one"
        ) from None
    return _read(data, str(file))


@dataclass(frozen=True)
class OnnxPolicy:
    """A policy that onnxruntime evaluates; used as `Policy` is.

    Attributes:
        observation_shape: shape of one observation.
        action: bounds, or number of choices; the graph itself applies them.
        task: the environment it was trained on.
        provenance: how it was trained.
        session: the onnxruntime session.
    """

    observation_shape: tuple[int, ...]
    action: BoxAction | DiscreteAction
    task: ControlTask | None
    provenance: Mapping[str, Any]
    session: Any = field(repr=False, compare=False)

    def predict(self, observation: npt.ArrayLike) -> Array:
        """The action for each observation; as `Policy.predict`.

        Args:
            observation: shape (…, *observation_shape), raw.

        Returns:
            Actions, shape (…, *action shape).

        Raises:
            ObservationError: the trailing dimensions are not `observation_shape`.
        """
        lead, batch = as_batch(observation, self.observation_shape)
        inputs = {"observation": batch.astype(np.float64, copy=False)}
        actions: Array = self.session.run(None, inputs)[0]
        return actions.reshape(lead + actions.shape[1:])


def check_agreement(
    policy: Policy,
    predict: Callable[[Array], Any],
    observations: int = 512,
    what: str = "the ONNX file",
) -> float:
    """Compare another form of a policy with the policy itself.

    Args:
        policy: the policy.
        predict: from observations (B, *observation) to actions.
        observations: how many random ones, spread as in training and ten times as far.
        what: the other form, for the error.

    Returns:
        Largest difference, as a share of half the range of the action, or of the action itself,
        where one of them is above 1. For discrete actions: how much better, at most, the policy
        finds its own choice.

    Raises:
        FileError: the difference is above `TOLERANCE`.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(observations, *policy.observation_shape))
    x[::2] *= 10
    if policy.normaliser is not None:
        x = policy.normaliser.mean + x * np.sqrt(policy.normaliser.var)
    own, other = policy.predict(x), np.asarray(predict(x))
    if own.shape != other.shape:
        raise FileError(f"{what} gives actions {other.shape}; the policy {own.shape}")
    if isinstance(policy.action, BoxAction):
        span = 0.5 * (policy.action.high.astype(float) - policy.action.low)
        scale = np.where(np.isfinite(span), np.maximum(1, span), np.maximum(1, np.abs(own)))
        difference = np.abs(own - other) / scale
    else:
        difference = _regret(policy, x, other)
    largest = float(difference.max())
    if not largest <= TOLERANCE:
        raise FileError(
            f"{what} and the policy differ by {largest:.1e}; at most {TOLERANCE:.0e} is allowed"
        )
    return largest


def _regret(policy: Policy, x: Array, chosen: Array) -> Array:
    """How much larger than the chosen outputs of the network the largest ones are."""
    assert isinstance(policy.action, DiscreteAction)
    bound = np.full(policy.action.outputs, np.inf)
    outputs = replace(policy, action=BoxAction(-bound, bound)).predict(x)
    parts = np.split(outputs, np.cumsum(policy.action.choices)[:-1], axis=-1)
    columns = chosen.reshape(len(x), -1).T
    return np.stack(
        [
            part.max(-1) - np.take_along_axis(part, column[:, None], -1)[:, 0]
            for part, column in zip(parts, columns, strict=True)
        ]
    )


def _describe(policy: Policy) -> dict[str, Any]:
    """The metadata: keys to JSON values."""
    task, action = policy.task, policy.action
    description: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "observation_shape": list(policy.observation_shape),
        "control_rate": task and task.control_rate,
        "environment": task and {"id": task.id, "kwargs": dict(task.kwargs)},
        "provenance": dict(policy.provenance),
    }
    if isinstance(action, BoxAction):
        description["action"] = {
            "kind": "box",
            "shape": list(action.low.shape),
            "low": [float(v) if math.isfinite(v) else None for v in action.low.ravel()],
            "high": [float(v) if math.isfinite(v) else None for v in action.high.ravel()],
        }
    else:
        kind = "multi_discrete" if action.several else "discrete"
        description["action"] = {"kind": kind, "choices": list(action.choices)}
    return description


def _exported(policy: Policy) -> bytes:
    """The content of the file."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    import torch

    from .torch_policy import TorchPolicy

    network = TorchPolicy(policy).eval()
    observations = torch.zeros(2, *policy.observation_shape, dtype=torch.float64)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (observations,),
            input_names=["observation"],
            output_names=["action"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "what the dynamo exporter returns"
    model = program.model_proto
    # Torch notes where in the source code each operator comes from, with paths of this machine.
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for noted in (model, graph, *graph.node, *values):
        noted.ClearField("metadata_props")
    for key, value in _describe(policy).items():
        model.metadata_props.add(key=key, value=json.dumps(value, allow_nan=False))
    model.producer_name, model.producer_version = "nprobot", ""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of torch's exporter on itself and on packages that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _read(data: bytes, name: str) -> OnnxPolicy:
    session = _session(data, name)
    with as_damaged(f"the metadata of {name}"):
        metadata = session.get_modelmeta().custom_metadata_map
        description = {key: json.loads(value) for key, value in metadata.items()}
        check_format(description, FORMAT, VERSION, name)
        check_texts(description)
        policy = _policy(description, session)
    _try(policy, name)
    return policy


def _session(data: bytes, name: str) -> Any:  # noqa: ANN401 - onnxruntime has no types
    runtime = _package("onnxruntime")
    if FORMAT.encode() not in data:
        raise ForeignFileError(f"{name} is not a policy of nprobot (no format {FORMAT!r})")
    try:
        used = operators(data)
    except ValueError as error:
        raise DamagedFileError(f"{name} cannot be used as an ONNX model: {error}") from None
    if foreign := used - OPERATORS:
        raise DamagedFileError(
            f"{name} cannot be used as an ONNX model: it has the operators "
            f"{', '.join(sorted(foreign))[:200]}, which no policy of nprobot has"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    # Where a graph may point at other files: in no folder.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        with memory_limit(MEMORY):
            return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class
        raise DamagedFileError(f"{name} cannot be used as an ONNX model: {error}") from None


def _policy(description: Mapping[str, Any], session: Any) -> OnnxPolicy:  # noqa: ANN401
    shape = tuple(description["observation_shape"])
    if (problem := shape_problem(shape)) is not None:
        raise ValueError(f"observation shape {problem}")
    return OnnxPolicy(
        observation_shape=shape,
        action=_action(description["action"]),
        task=read_task(description["environment"], description["control_rate"]),
        provenance=check_provenance(description["provenance"]),
        session=session,
    )


def _action(action: Mapping[str, Any]) -> BoxAction | DiscreteAction:
    if action["kind"] == "box":
        low, high = (
            np.array([bound if v is None else float(v) for v in action[key]], np.float64)
            for key, bound in (("low", -np.inf), ("high", np.inf))
        )
        shape = tuple(action["shape"])
        if shape and (problem := shape_problem(shape)) is not None:
            raise ValueError(f"actions of shape {problem}")
        if not holds_an_action(low, high):
            raise ValueError("the bounds of the actions do not fit each other")
        return BoxAction(low.reshape(shape), high.reshape(shape))
    if action["kind"] in ("discrete", "multi_discrete"):
        choices = tuple(action["choices"])
        if (problem := choices_problem(choices)) is not None:
            raise ValueError(problem)
        return DiscreteAction(choices, action["kind"] == "multi_discrete")
    raise ValueError(f"unknown kind of action {action['kind']!r}")


def _try(policy: OnnxPolicy, name: str) -> None:
    """Refuse a graph that does not take the observations, or give the actions, it is said to."""
    x = np.zeros((2, *policy.observation_shape))
    try:
        with memory_limit(MEMORY):
            actions = policy.predict(x)
    except Exception as error:  # as in `_session`
        raise DamagedFileError(f"the graph of {name} cannot be evaluated: {error}") from None
    if isinstance(policy.action, BoxAction):
        shape, kind = policy.action.low.shape, "f"
    else:
        shape, kind = ((len(policy.action.choices),) if policy.action.several else ()), "i"
    if actions.shape != (2, *shape) or actions.dtype.kind != kind:
        raise DamagedFileError(
            f"the graph of {name} gives {actions.shape[1:]} {actions.dtype} as an action; its "
            f"metadata says {shape}"
        )


def _file(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".onnx") else Path(path) / ONNX_FILE


def _package(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"ONNX files need the package {name}: pip install 'nprobot[onnx]' ({error})"
        ) from error
