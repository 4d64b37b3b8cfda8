"""The zoo: every policy loads, its card tells the truth about it, and is small."""

import statistics
from pathlib import Path

import numpy as np
import pytest

from nprobot.policies import zoo
from nprobot.policies.card import CARD_FILE, card, network_name
from nprobot.training.evaluation import evaluate

NAMES = zoo.names()
FRESH_SEED = 12345
LARGEST_FILE = 300_000


def test_there_is_a_zoo():
    assert "InvertedPendulum" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_card_is_that_of_the_policy(name):
    text = (zoo.folder(name) / CARD_FILE).read_text("utf-8")
    assert text == card(zoo.load_policy(name), reference=f"zoo:{name}")
    assert (zoo.folder(name) / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_provenance_is_complete(name):
    policy = zoo.load_policy(name)
    made = policy.provenance
    assert made["rule"] in ("danp", "nrl")
    assert made["backward_passes"] == 0
    assert made["licence"] == "MIT"
    assert made["command"].startswith("nprobot train --env ")
    assert policy.task is not None
    assert policy.task.control_rate is not None
    assert f"--env {policy.task.id} " in made["command"]
    assert network_name(policy).startswith(f"{policy.observation_shape[0]}-")


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


def test_pendulum_balances():
    assert evaluate(zoo.load_policy("InvertedPendulum"), episodes=5).mean == 1000


@pytest.mark.parametrize("name", ["InvertedPendulm", "invertedpendulum"])
def test_near_names_are_suggested(name):
    with pytest.raises(zoo.UnknownPolicyError, match="did you mean InvertedPendulum"):
        zoo.folder(name)


@pytest.mark.parametrize("name", ["", "..", "../zoo/InvertedPendulum", "/tmp"])
def test_names_are_names_and_not_paths(name):
    with pytest.raises(zoo.UnknownPolicyError, match="the zoo has no policy"):
        zoo.folder(name)
