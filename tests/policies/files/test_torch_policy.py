"""A policy as a torch module: the actions of numpy, and back to the same operations."""

import numpy as np
import pytest
import torch
from torch import nn

from nprobot.errors import ArchitectureError
from nprobot.policies import ACTIVATIONS, TorchPolicy, mlp
from nprobot.policies.files.onnx_file import check_agreement
from nprobot.policies.files.torch_policy import layer, operations

from .helpers import ACTIONS, BETWEEN, made, observations


@pytest.mark.parametrize("name", BETWEEN)
def test_every_operation_is_the_same_in_numpy_and_torch(name):
    policy = made(between=(name,))
    actions = policy.predict(observations())
    assert np.abs(TorchPolicy(policy).predict(observations()) - actions).max() <= 1e-5
    assert len(np.unique(actions.round(3), axis=0)) > 3  # the comparison is not of constants


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
def test_every_kind_of_action(action, normalise):
    policy = made(ACTIONS[action], normalise=normalise)
    assert check_agreement(policy, TorchPolicy(policy).predict) <= 1e-5
    assert TorchPolicy(policy).predict(observations()).dtype == policy.predict([[0.0] * 5]).dtype


def test_layers_become_operations_and_layers_again():
    assert {*BETWEEN} == {*ACTIVATIONS}
    network = nn.Sequential(nn.Flatten(), *(mlp([4, 4], "tanh", False, a)[1] for a in BETWEEN))
    network.append(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3, bias=False)))
    generator = torch.get_rng_state()
    again = nn.Sequential(*map(layer, operations(network)))
    assert torch.equal(torch.get_rng_state(), generator)
    x = torch.randn(6, 4)
    torch.testing.assert_close(again(x), network(x))
    assert [operation.name for operation in operations(again)] == [
        *("flatten", *BETWEEN, "linear", "linear")
    ]
    assert not any(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        network[-1][0].weight.zero_()
    assert again[-2].weight.any()


@pytest.mark.parametrize("module", [nn.Softmax(-1), nn.GELU("tanh"), nn.Hardtanh()])
def test_other_layers_are_refused(module):
    with pytest.raises(ArchitectureError, match="known: Linear, Flatten"):
        list(operations(module))
