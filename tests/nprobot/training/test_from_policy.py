"""A run from a policy begins with what that does; the critic may learn first."""

import json

import numpy as np
import pytest
import stable_baselines3
import torch

import nprobot
from nprobot.cli.train import main as train_command
from nprobot.deploy import load_policy
from nprobot.errors import ConfigError, ForeignFileError
from nprobot.training import evaluate, train
from nprobot.training.from_policy import SPREAD, Start
from nprobot.training.run_config import AlgorithmOptions, RunConfig

from .helpers import Listener

SMALL = RunConfig(
    steps=1024, seed=1, envs=2, algorithm=AlgorithmOptions(n_steps=128, batch_size=64, n_epochs=2)
)


@pytest.mark.parametrize("rule", ["np+feedback", "dnp+feedback", "bp"])
def test_a_run_begins_where_the_policy_ended(rule, tmp_path):
    policy = load_policy("zoo:Reacher")
    start = Start(policy, "zoo:Reacher")
    config = start.configure(SMALL.replace(rule=rule)).with_options({"critic_warmup": 768})
    assert config.env == "Reacher-v5"
    listener = Listener()
    result = train(config, tmp_path / "run", start=start, reporter=listener)
    expected = evaluate(policy)
    (told,) = (text for text in listener.messages if text.startswith("starts from"))
    assert f"return {expected}" in told and "768" in told
    first = (tmp_path / "run" / "progress.csv").read_text().splitlines()[:2]
    row = dict(zip(*(line.split(",") for line in first), strict=True))
    assert row["time/total_timesteps"] == "0"
    assert float(row["eval/mean_reward"]) == pytest.approx(expected.mean, abs=1e-3)
    assert load_policy(tmp_path / "run" / "start").provenance == policy.provenance
    session = json.loads((tmp_path / "run" / "config.json").read_text())["sessions"][0]
    assert session["start"] == "zoo:Reacher"
    # The last update was one of the actor, too: it has moved, and not far.
    assert result.evaluation is not None and result.evaluation.mean > expected.mean - 2


@pytest.mark.parametrize("rule", ["np+feedback", "danp", "bp"])
def test_the_actor_waits_while_the_critic_warms_up(rule):
    env = "InvertedPendulum-v5"
    model = nprobot.PPO("MlpPolicy", env, rule=rule, n_steps=128, critic_warmup=256, seed=0)
    parameters = dict(model.policy.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    critics = {name for name in before if "value_net" in name}
    others = set(before) - critics

    def changed():
        return {n for n, p in model.policy.named_parameters() if not torch.equal(p, before[n])}

    model.learn(256)
    assert changed() == critics
    model.learn(128, reset_num_timesteps=False)
    assert changed() & others


def test_a_warm_up_needs_a_critic_of_its_own(tmp_path):
    with pytest.raises(ConfigError, match="0 or more"):
        nprobot.PPO("MlpPolicy", "InvertedPendulum-v5", critic_warmup=-1)


def test_exploration_is_what_the_policy_says(tmp_path):
    model = nprobot.from_policy("zoo:InvertedPendulum")  # actions from -3 to 3
    std = model.policy.log_std.detach().exp().numpy()
    np.testing.assert_allclose(std, [3 * SPREAD], rtol=1e-5)
    with torch.no_grad():
        model.policy.log_std.fill_(np.log(0.7))
    config = Start(load_policy("zoo:InvertedPendulum"), "zoo").configure(SMALL)
    start = Start(load_policy("zoo:InvertedPendulum"), "zoo", std=0.5)
    train(config, tmp_path / "run", start=start)
    again = nprobot.from_policy(tmp_path / "run")
    recorded = load_policy(tmp_path / "run").provenance["action_std"]
    np.testing.assert_allclose(again.policy.log_std.detach().exp(), recorded, rtol=1e-5)
    assert recorded[0] == pytest.approx(1.5, rel=0.1)


def test_the_command_starts_from_policies_and_from_files_that_are_trusted(tmp_path, capsys):
    small = ["--steps", "256", "--n-steps", "32", "--batch-size", "64"]
    out = tmp_path / "run"
    assert train_command(["--from", "zoo:Reacher", *small, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["env"] == "Reacher-v5" and config["algorithm"]["critic_warmup"] == 2560
    assert "starts from zoo:Reacher" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="hidden is"):
        train_command(["--from", "zoo:Reacher", "--hidden", "8"])
    with pytest.raises(ConfigError, match="--start-std belongs"):
        train_command(["--start-std", "0.3"])
    with pytest.raises(ConfigError, match="leave --from away"):
        train_command(["--from", "zoo:Reacher", "--resume", str(out)])

    file = tmp_path / "theirs.zip"
    theirs = stable_baselines3.SAC("MlpPolicy", "Pendulum-v1", seed=0)
    theirs.save(file)
    with pytest.raises(ForeignFileError, match="--trust"):
        train_command(["--from", str(file), "--env", "Pendulum-v1"])
    words = ["--from", str(file), "--trust", "--algo", "sac", "--env", "Pendulum-v1"]
    out = tmp_path / "sac"
    assert train_command([*words, "--steps", "10", "--out", str(out)]) == 0
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = theirs.predict(x, deterministic=True)[0]
    np.testing.assert_allclose(load_policy(out / "start").predict(x), expected, atol=1e-5)
    np.testing.assert_allclose(load_policy(out).predict(x), expected, atol=1e-5)
