"""Settings files of rl_zoo3, as they are written there."""

import pytest

from nprobot.catalogue import rules
from nprobot.cli import main
from nprobot.defaults import zoo_settings
from nprobot.errors import ConfigError, MissingPackageError, UnknownNameError
from nprobot.training.run_config import RunConfig
from nprobot.training.run_folder import RunFolder

FILE = """\
default:
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'

HalfCheetah-v2: &cheetah
  gamma: 0.5

HalfCheetah-v4:
  <<: *cheetah
  normalize: "{'norm_obs': True, 'norm_reward': False}"
  n_envs: 4
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'
  batch_size: 64
  learning_rate: lin_3e-4
  ent_coef: 0.0004
  use_sde: True
  sde_sample_freq: 4
  policy_kwargs: "dict(
                    log_std_init=-2,
                    ortho_init=False,
                    activation_fn=nn.ReLU,
                    net_arch=dict(pi=[32, 16], vf=[32, 16])
                  )"

Pendulum-v1:
  n_envs: 2
  n_steps: 64
  learning_rate: !!float 1e-3
  use_sde: True
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ppo.yml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("rule", rules())
def test_a_file_is_read_for_every_rule(file, rule):
    config, _, entry = zoo_settings(str(file), RunConfig(env="HalfCheetah-v5", rule=rule, envs=3))
    assert entry == "HalfCheetah-v4"
    assert (config.envs, config.steps, config.normalise) == (3, 1_000_000, "observations")
    assert (config.learning.learning_rate, config.learning.lr_schedule) == (3e-4, "linear")
    assert config.network.hidden == (32, 16)
    assert config.network.activation == "relu"
    assert (config.network.log_std_init, config.network.ortho_init) == (-2.0, False)
    own = config.algorithm
    assert (own.n_steps, own.gamma, own.use_sde, own.sde_sample_freq) == (2048, 0.5, True, 4)


def test_a_run_by_it_is_what_the_file_says(file, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--zoo-settings", str(file), "--steps", "128", "--out", str(out)]
    assert main(["train", "--env", "Pendulum-v1", *given]) == 0
    assert "zoo for Pendulum-v1" in " ".join(capsys.readouterr().out.split())
    config = RunFolder.open(out).config
    assert (config.envs, config.algorithm.use_sde, config.normalise) == (2, True, "off")
    assert config.learning.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("line", "error", "names"),
    [
        ("env_wrapper: gymnasium.wrappers.X", UnknownNameError, "env_wrapper"),
        ("clip_range: lin_0.2", ConfigError, "clip_range"),
        ("policy: CnnPolicy", ConfigError, "CnnPolicy"),
        ("learning_rate: fast", ConfigError, "fast"),
        ("policy_kwargs: dict(net_arch=__import__('os').listdir())", ConfigError, "__import__"),
        ("policy_kwargs: dict(net_arch=dict(pi=[8], vf=[4]))", ConfigError, "alike"),
        ("policy_kwargs: dict(squash=True)", UnknownNameError, "squash"),
        ("gamma: !!python/object/apply:os.getcwd []", ConfigError, "YAML"),
        ("gamma: 3.0", ConfigError, "gamma"),
    ],
)
def test_what_a_run_cannot_do_is_named(tmp_path, line, error, names):
    path = tmp_path / "ppo.yml"
    path.write_text(f"Pendulum-v1:\n  {line}\n")
    with pytest.raises(error, match=names):
        zoo_settings(str(path), RunConfig(env="Pendulum-v1"))


def test_without_the_zoo_or_an_entry_it_says_what_to_do(tmp_path, file):
    with pytest.raises(MissingPackageError, match="hyperparams/sac"):
        zoo_settings("sac", RunConfig())
    with pytest.raises(ConfigError, match="algorithm is td3"):
        zoo_settings("sac", RunConfig(algo="td3"))
    assert zoo_settings(str(file), RunConfig())[2] == "default"
    file.write_text("Hopper-v4:\n  gamma: 0.9\n")
    with pytest.raises(UnknownNameError, match="Hopper"):
        zoo_settings(str(file), RunConfig(env="Hoper-v4"))
