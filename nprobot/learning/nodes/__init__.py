"""The kinds of layers that learn: one class a kind, one module a family."""

from . import (
    attention_nodes,
    chip_nodes,
    convolution_nodes,
    embedding_nodes,
    gain_nodes,
    head_nodes,
    linear_nodes,
    parameter_nodes,
    recurrent_nodes,
)
from .chip_nodes import JumpNodes
from .node_layer import KINDS, NodeLayer, add_gradient, layer_kind, node_layers

__all__ = [
    "KINDS",
    "JumpNodes",
    "NodeLayer",
    "add_gradient",
    "attention_nodes",
    "chip_nodes",
    "convolution_nodes",
    "embedding_nodes",
    "gain_nodes",
    "head_nodes",
    "layer_kind",
    "linear_nodes",
    "node_layers",
    "parameter_nodes",
    "recurrent_nodes",
]
