"""The catalogue: what there is, light, and open to rules and layers from outside."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import nprobot
from nprobot import catalogue
from nprobot.errors import RuleError, UnsupportedLayerError
from nprobot.learning import NodeLayer, PerturbationRule, layer_kind
from nprobot.learning.nodes import KINDS, add_gradient


def test_the_rules_of_the_package():
    own = {name: rule for name, rule in catalogue.rules().items() if not rule.traits.peer}
    plain = {name for name, rule in own.items() if not rule.feedback}
    assert plain == {"np", "inp", "anp", "bp", "dnp", "dinp", "danp", "dbp"}
    guided = {name for name, rule in own.items() if rule.feedback}
    assert guided == {"np+feedback", "inp+feedback", "dnp+feedback", "dinp+feedback"}
    assert list(catalogue.rules())[: len(own)] == [*own], "peers come last"


def test_traits_read_from_the_source_are_those_of_the_classes():
    for rule in catalogue.rules().values():
        cls = catalogue.rule_class(rule.traits)
        assert cls.traits == rule.traits
        made = nprobot.learning_rule(rule.name, seed=0)
        assert type(made) is cls
        assert made.entry == rule
        assert made.samples == rule.settings["samples"]


def test_titles_colours_and_markers_tell_rules_apart():
    rules = catalogue.rules().values()
    assert len({rule.title for rule in rules}) == len(rules)
    assert len({rule.colour for rule in rules}) == len(rules)
    assert catalogue.rule_named("dnp+feedback").title == "DNP + feedback"
    assert catalogue.learner_title("danp", 8) == "DANP, K = 8"
    assert catalogue.learner_title("bp", 1) == "BP"
    assert catalogue.learner_title("of another package", 3) == "OF ANOTHER PACKAGE"


def test_feedback_said_in_the_old_way():
    assert nprobot.learning_rule("dnp", feedback=True).name == "dnp+feedback"
    assert nprobot.learning_rule("np", feedback="direct").name == "np+feedback"
    with pytest.raises(RuleError, match="feedback is for np, inp, dnp, dinp, not for 'danp'"):
        nprobot.learning_rule("danp", feedback=True)


def test_the_default_learner_is_one():
    assert nprobot.learning_rule().name == catalogue.DEFAULT_RULE
    assert {a.rule for a in catalogue.ALGORITHMS.values() if a.name != "nrl"} == {
        catalogue.DEFAULT_RULE
    }


def test_asking_is_light():
    code = (
        "import sys; from nprobot import catalogue; catalogue.rules();"
        "catalogue.actuator_presets(); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.fixture
def toy_rule():
    """A ninth rule, from outside the package: weight-free noise of the loss alone."""

    @catalogue.rule(
        name="toy", title="Toy", about="NP with the sign of the change", citation="a test"
    )
    class Toy(PerturbationRule):
        """``sign(δL) ε``: the direction of NP without its size."""

        def node_error(self, activity, noise, delta_loss):
            change = delta_loss(activity.perturbed(noise)).sign() / self.sigma
            return (change.unsqueeze(-1) * noise).mean(0) / activity.batch

    yield Toy
    catalogue._TRAITS.pop("toy")
    catalogue._CLASSES.pop("toy")


class Scale(nn.Module):
    """A layer that the engine does not know: a gain for every feature."""

    def __init__(self, size):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.gain * x


@pytest.fixture
def toy_layer():
    """A kind of layer from outside the package."""

    @layer_kind
    class ScaleNodes(NodeLayer):
        """Nodes of a `Scale`: one for every feature."""

        supports = (Scale,)

        def pre_activation(self, x):
            return self.module.gain * x

        def decorrelated_input(self, x):
            return x

        def accumulate(self, error, x):
            add_gradient(self.module.gain, (error * x))

        def outer(self, error, x):
            return [(self.module.gain, error * x)]

    yield ScaleNodes
    KINDS.pop(Scale)


def learned(rule, network, steps=300):
    """Loss before and after learning a linear map."""
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    target = x @ torch.randn(4, 2)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)

    def loss(outputs):
        return (outputs - target).square().mean(-1)

    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(float(rule.backward(network, x, loss).mean()))
        optimizer.step()
        rule.decorrelate(network)
    return losses[0], losses[-1]


@pytest.mark.parametrize("name", ["toy", "dtoy"])
def test_a_rule_from_outside_trains(toy_rule, name):
    rule = nprobot.learning_rule(name, seed=0)
    assert type(rule) is toy_rule
    first, last = learned(rule, nprobot.policies.mlp([4, 16, 2], decorrelated=rule.decorrelated))
    assert last < 0.3 * first


def test_a_rule_from_outside_trains_a_policy(toy_rule):
    model = nprobot.PPO("MlpPolicy", "Pendulum-v1", 1e-3, rule="toy", n_steps=64)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    moved = [(a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert all(moved)


def test_a_rule_is_found_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "its_module.py").write_text(
        textwrap.dedent(
            """
            from nprobot import catalogue
            from nprobot.learning.rules import NodePerturbation

            @catalogue.rule(name="mine", title="Mine", about="NP by another name", citation="me")
            class Mine(NodePerturbation):
                pass
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert nprobot.learning_rule("its_module:mine").name == "mine"
    catalogue._TRAITS.pop("mine")
    catalogue._CLASSES.pop("mine")


def test_a_layer_from_outside_learns(toy_layer):
    network = nn.Sequential(nn.Linear(4, 8), Scale(8), nn.Tanh(), nn.Linear(8, 2))
    first, last = learned(nprobot.learning_rule("np", seed=0), network)
    assert last < 0.3 * first
    assert not torch.equal(network[1].gain, torch.ones(8))


def test_a_layer_that_nobody_knows_is_refused():
    with pytest.raises(UnsupportedLayerError, match="Scale"):
        learned(nprobot.learning_rule("np"), nn.Sequential(nn.Linear(4, 2), Scale(2)), 1)
