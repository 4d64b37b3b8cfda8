"""The zoo: every policy loads, its card tells the truth about it, and is small."""

import importlib
import shlex
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nprobot.catalogue import DEFAULT_RULE
from nprobot.errors import NotFoundError
from nprobot.policies import zoo
from nprobot.policies.files.card import CARD_FILE, card, network_name
from nprobot.policies.files.policy import recorded_rule
from nprobot.regression import track
from nprobot.training.evaluation import evaluate

NAMES = zoo.names()
FRESH_SEED = 12345
LARGEST_FILE = 300_000


@pytest.fixture
def committed_commands(monkeypatch):
    """Name of a policy → arguments of `nprobot` that made it, by the script that trains the zoo."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("scripts.experiments.control.zoo").COMMANDS


def test_there_is_a_zoo():
    assert {*NAMES} >= {
        *("InvertedPendulum", "InvertedDoublePendulum", "Reacher", "ArmReach", "ArmTrack"),
        *("Hopper", "HalfCheetah", "Swimmer"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_card_is_that_of_the_policy(name):
    text = (zoo.folder(name) / CARD_FILE).read_text("utf-8")
    assert text == card(zoo.load_policy(name), reference=f"zoo:{name}")
    assert (zoo.folder(name) / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_provenance_is_complete(name):
    policy = zoo.load_policy(name)
    made = policy.provenance
    rule = recorded_rule(made)
    assert rule in ("danp", "nrl") or rule.endswith("+feedback")
    assert made["backward_passes"] == 0
    assert made["licence"] == "MIT"
    assert policy.task is not None
    assert policy.task.control_rate is not None
    assert network_name(policy).startswith(f"{policy.observation_shape[0]}-")
    program, kind, *words = shlex.split(made["command"])
    # A flag is followed by the next option, or by nothing.
    settings = {option: value for option, value in pairwise([*words, ""]) if option[:2] == "--"}
    assert program == "nprobot"
    assert settings.get("--rule", DEFAULT_RULE) == recorded_rule(made)
    if kind == "fit":  # to data of the robot that the policy controls
        assert settings["--task"] == "arm-inverse-dynamics"
        assert policy.task.id == "nprobot/ArmTrack-v0"
        assert int(settings["--epochs"]) == made["epochs"]
    else:
        assert kind == "train"
        if "--robot" in settings:
            assert settings["--robot"] == policy.task.kwargs["model"]
            assert settings["--task"] == policy.task.kwargs["task"]
        else:
            assert settings["--env"] == policy.task.id
        assert int(settings["--steps"]) <= made["steps"]


def test_commands_are_those_of_the_script_that_trains_the_zoo(committed_commands):
    made = {name: zoo.load_policy(name).provenance["command"] for name in NAMES}
    assert made == {name: f"nprobot {command}" for name, command in committed_commands.items()}


@pytest.mark.parametrize("name", NAMES)
def test_files_are_small_and_name_no_machine(name):
    for file in zoo.folder(name).iterdir():
        data = file.read_bytes()
        assert len(data) < LARGEST_FILE
        assert b"/home/" not in data
        assert str(Path(__file__).parents[2]).encode() not in data


@pytest.mark.parametrize("name", NAMES)
def test_score_on_the_card_holds_on_other_episodes(name):
    policy = zoo.load_policy(name)
    claimed = policy.provenance["evaluation"]["returns"]
    assert len(claimed) == 100
    fresh = evaluate(policy, episodes=10, seed=FRESH_SEED).returns
    spread = statistics.stdev(claimed)
    tolerance = 4 * spread * np.sqrt(1 / len(fresh) + 1 / len(claimed)) + 1e-3 * abs(
        statistics.fmean(claimed)
    )
    assert statistics.fmean(fresh) == pytest.approx(statistics.fmean(claimed), abs=tolerance)


def test_tracking_error_on_the_card_holds_on_other_references():
    policy = zoo.load_policy("ArmTrack")
    claimed = policy.provenance["evaluation"]["tracking"]
    squares = np.square(claimed["episode_errors"])
    assert claimed["position_error"] == pytest.approx(squares.mean() ** 0.5)
    fresh = np.square(track(policy, episodes=5, seed=FRESH_SEED).episode_errors)
    tolerance = 4 * squares.std(ddof=1) * np.sqrt(1 / len(fresh) + 1 / len(squares))
    assert fresh.mean() == pytest.approx(squares.mean(), abs=tolerance)


def test_feedforward_is_worth_it():
    """What the PD controller alone leaves is cut to a tenth; the exact model is the bound."""
    tracking = zoo.load_policy("ArmTrack").provenance["evaluation"]["tracking"]
    assert tracking["exact_model"] < tracking["position_error"] < 0.1 * tracking["pd_alone"]


def test_pendulum_balances():
    assert evaluate(zoo.load_policy("InvertedPendulum"), episodes=5).mean == 1000


@pytest.mark.parametrize("name", ["InvertedPendulm", "invertedpendulum"])
def test_near_names_are_suggested(name):
    with pytest.raises(NotFoundError, match="did you mean InvertedPendulum"):
        zoo.folder(name)


@pytest.mark.parametrize("name", ["", "..", "../zoo/InvertedPendulum", "/tmp"])
def test_names_are_names_and_not_paths(name):
    with pytest.raises(NotFoundError, match="the zoo has no policy"):
        zoo.folder(name)
