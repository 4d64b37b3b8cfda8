"""The ONNX graph of a policy, node by node from its list of operations; needs `onnx`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .operations import Operation
from .policy import Array, BoxAction, DiscreteAction, Normaliser, Policy

INPUT, OUTPUT = "observation", "action"
OPSET = 17
"""Old enough for the runtimes in use, new enough for every operation here."""
IR_VERSION = 8

SAME_NAME = {"identity": "Identity", "tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
"""Operations that are one ONNX operator without settings."""


def build_graph(policy: Policy) -> onnx.ModelProto:
    """The policy as a checked ONNX model without metadata.

    Input `observation`: float64, (batch, *observation). Output `action`: (batch, *action), in the
    float type of the action's bounds, or int64 for discrete actions.

    Args:
        policy: the policy.
    """
    graph = _Graph()
    x = INPUT
    if policy.normaliser is not None:
        x = graph.normalise(x, policy.normaliser)
    x = graph.node("Cast", x, to=TensorProto.FLOAT)
    for operation in policy.operations:
        x = graph.operation(x, operation)
    if isinstance(policy.action, BoxAction):
        kind, shape = graph.box_action(x, policy.action), policy.action.low.shape
    else:
        kind = graph.discrete_action(x, policy.action)
        shape = (len(policy.action.choices),) if policy.action.several else ()
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [
                helper.make_tensor_value_info(
                    INPUT, TensorProto.DOUBLE, ["batch", *policy.observation_shape]
                )
            ],
            [helper.make_tensor_value_info(OUTPUT, kind, ["batch", *shape])],
            graph.constants,
        ),
        producer_name="nprobot",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, output: str | None = None, **settings: Any) -> str:
        """Add a node; returns the name of its output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}_node", **settings))
        return name

    def constant(self, value: Any, dtype: Any) -> str:  # noqa: ANN401 - whatever numpy takes
        """Add a constant; returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def normalise(self, x: str, normaliser: Normaliser) -> str:
        """What `Normaliser` does, in float64 as there."""
        centred = self.node("Sub", x, self.constant(normaliser.mean, np.float64))
        deviation = np.sqrt(normaliser.var + normaliser.epsilon)
        scaled = self.node("Div", centred, self.constant(deviation, np.float64))
        bounds = (self.constant(sign * normaliser.clip, np.float64) for sign in (-1, 1))
        return self.node("Clip", scaled, *bounds)

    def operation(self, x: str, operation: Operation) -> str:
        """One operation of the network, in float32."""
        name, settings = operation.name, operation.settings
        if name == "linear":
            weight, bias = (
                self.constant(operation.arrays[key], np.float32) for key in ("weight", "bias")
            )
            return self.node("Gemm", x, weight, bias, transB=1)
        if name == "flatten":
            return self.node("Flatten", x, axis=1)
        if name == "leaky_relu":
            return self.node("LeakyRelu", x, alpha=settings["negative_slope"])
        if name == "elu":
            return self.node("Elu", x, alpha=settings["alpha"])
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        if name == "gelu":
            erf = self.node("Erf", self.node("Div", x, self.constant(math.sqrt(2), np.float32)))
            probability = self.node(
                "Mul",
                self.node("Add", erf, self.constant(1, np.float32)),
                self.constant(0.5, np.float32),
            )
            return self.node("Mul", x, probability)
        return self.node(SAME_NAME[name], x)

    def box_action(self, x: str, action: BoxAction) -> int:
        """Outputs to continuous actions; returns the ONNX type of the actions."""
        dtype = action_dtype(action)
        kind = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE
        low, high = self.constant(action.low, dtype), self.constant(action.high, dtype)
        shape = self.constant((-1, *action.low.shape), np.int64)
        x = self.node("Cast", self.node("Reshape", x, shape), to=kind)
        if action.mapping == "rescale":
            share = self.node(
                "Mul",
                self.node("Add", x, self.constant(1, dtype)),
                self.constant(0.5 * (action.high - action.low), dtype),
            )
            x = self.node("Add", low, share)
        # `Clip` takes one bound for all; the bounds of an action differ.
        self.node("Min", self.node("Max", x, low), high, output=OUTPUT)
        return int(kind)

    def discrete_action(self, x: str, action: DiscreteAction) -> int:
        """Outputs to the numbers of the largest ones; returns the ONNX type of the actions."""
        if not action.several:
            self.node("ArgMax", x, axis=1, keepdims=0, output=OUTPUT)
            return int(TensorProto.INT64)
        ends = np.cumsum((0, *action.choices))
        largest = []
        for start, end in itertools.pairwise(ends):
            bounds = (self.constant([at], np.int64) for at in (start, end, 1))
            largest.append(self.node("ArgMax", self.node("Slice", x, *bounds), axis=1, keepdims=1))
        self.node("Concat", *largest, axis=1, output=OUTPUT)
        return int(TensorProto.INT64)


def action_dtype(action: BoxAction) -> np.dtype[Any]:
    """Float type of a continuous action: that of its bounds, float64 if they are not floats."""
    bounds: Array = action.low
    return np.dtype(np.float32 if bounds.dtype == np.float32 else np.float64)
