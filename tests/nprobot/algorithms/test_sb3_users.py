"""What users of stable-baselines3 do with PPO, SAC and TD3: it works, or says why it does not."""

from __future__ import annotations

import copy
import io
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import nn
from torch.nn.utils import parametrizations, prune

import nprobot
from nprobot.algorithms.losses import ClippedSurrogate
from nprobot.errors import (
    ArchitectureError,
    ConfigError,
    EnvironmentUnavailableError,
    EnvironmentWarning,
    NonFiniteError,
    ObservationError,
    UnsupportedLayerError,
)
from nprobot.learning.alignment import alignment
from nprobot.policies import is_decorrelated
from nprobot.policies.gsde import StateDependentStd

from .off_policy_helpers import ExactGradients, Toy, small, weights

ON_POLICY = {"n_steps": 32, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 0}
BOX = spaces.Box(-1, 1, (3,))
TWO = spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
FIXED = spaces.Box(np.float32([-1, 2]), np.float32([1, 2]))
HALF = spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf]))
ALGORITHMS = [nprobot.PPO, nprobot.SAC, nprobot.TD3]


def settings(algorithm, **more):
    if issubclass(algorithm, stable_baselines3.PPO):
        return {**ON_POLICY, "policy_kwargs": {"net_arch": [16, 16]}, **more}
    return small(seed=0, **more)


def model(algorithm=nprobot.PPO, policy="MlpPolicy", env="Pendulum-v1", **more):
    return algorithm(policy, env, **settings(algorithm, **more))


def plain(algorithm):
    return getattr(stable_baselines3, algorithm.__name__)


def action(some, observation):
    return some.predict(observation, deterministic=True)[0]


# --- a policy that computes something else than what learns


class Tempered(ActorCriticPolicy):
    """Scales its logits or means outside the networks that learn."""

    def _get_action_dist_from_latent(self, latent_pi):
        return super()._get_action_dist_from_latent(3.0 * latent_pi)


class WithScale(ActorCriticPolicy):
    """Has a parameter beside its networks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(1))
        self.optimizer.add_param_group({"params": [self.scale]})


class Mirrored(SACPolicy):
    """Acts on the observation's opposite."""

    def make_actor(self, features_extractor=None):
        actor = super().make_actor(features_extractor)
        usual = actor.get_action_dist_params
        actor.get_action_dist_params = lambda observations: usual(-observations)
        return actor


class Functional(BaseFeaturesExtractor):
    """Uses a layer's weight without running the layer."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.layer = nn.Linear(3, 8)

    def forward(self, observations):
        return nn.functional.linear(observations, self.layer.weight, self.layer.bias)


class Layers(BaseFeaturesExtractor):
    """Some layers before the policy's own."""

    def __init__(self, observation_space, layers):
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Flatten(), *layers())

    def forward(self, observations):
        return self.layers(observations)


def extractor(layers):
    return {
        "features_extractor_class": Layers,
        "features_extractor_kwargs": {"layers": layers},
        "net_arch": [8],
    }


def test_a_policy_that_computes_something_else_is_refused():
    with pytest.raises(ArchitectureError, match="another log-probability than the networks"):
        model(policy=Tempered)
    with pytest.raises(ArchitectureError, match="another mean than the networks"):
        model(nprobot.SAC, policy=Mirrored)
    assert model(policy=Tempered, rule="bp").learn(32)


def test_parameters_beside_the_networks_are_refused_by_name():
    with pytest.raises(ArchitectureError, match=r"parameters \(scale\) that are in none"):
        model(policy=WithScale)


def test_a_layer_that_does_not_run_is_refused_by_name():
    kwargs = {"features_extractor_class": Functional}
    with pytest.raises(ArchitectureError, match=r"features_extractor.layer.weight.*F.linear"):
        model(policy_kwargs=kwargs)
    with pytest.raises(ArchitectureError, match=r"features_extractor.layer.weight.*F.linear"):
        model(nprobot.SAC, policy_kwargs=kwargs)


def test_a_policy_that_changes_before_the_first_batch_is_refused():
    ppo = model()
    usual = ppo.policy.evaluate_actions
    ppo.policy.evaluate_actions = lambda obs, actions: usual(-obs, actions)
    with pytest.raises(ArchitectureError, match="another log-probability"):
        ppo.learn(32)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [nn.Linear(3, 8), nn.Dropout(0.1)], r"\(Dropout\) draws at random"),
        (lambda: [nn.Linear(3, 8), nn.RReLU()], r"\(RReLU\) draws at random"),
        (lambda: [nn.Linear(3, 8), nn.BatchNorm1d(8)], r"\(BatchNorm1d\) mixes the samples"),
        (lambda: [nn.Linear(3, 8), nn.BatchNorm1d(8, affine=False)], "mixes the samples"),
        (lambda: [nn.utils.spectral_norm(nn.Linear(3, 8))], "weight_orig, as spectral_norm"),
        (lambda: [parametrizations.weight_norm(nn.Linear(3, 8))], "as spectral_norm, weight_norm"),
        (lambda: [prune.random_unstructured(nn.Linear(3, 8), "weight", 0.5)], "pruning"),
        (lambda: [nn.Linear(3, 8), nn.GRU(8, 8, 2, dropout=0.1)], r"\(GRU\) draws at random"),
        (lambda: [Centred()], "another output in a batch than by itself"),
        (lambda: [Noisy()], "computes another"),
    ],
)
def test_layers_that_cannot_learn_are_refused_when_the_model_is_made(algorithm, layers, message):
    with pytest.raises((UnsupportedLayerError, ArchitectureError), match=message):
        model(algorithm, policy_kwargs=extractor(layers))


class Centred(nn.Linear):
    """Subtracts the mean of the batch, in a function."""

    def __init__(self):
        super().__init__(3, 8)
        self.requires_grad_(False)

    def forward(self, x):
        return super().forward(x - x.mean(0))


class Noisy(nn.Module):
    """Drops out, in a function."""

    def forward(self, x):
        return nn.functional.dropout(x.repeat(1, 3)[:, :8], 0.5, self.training)


def test_layers_that_do_nothing_of_the_kind_are_taken():
    layers = [nn.Linear(3, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Dropout(0.0)]
    assert model(policy_kwargs=extractor(lambda: layers)).learn(32)


# --- modules that are replaced


@pytest.mark.parametrize("rule", ["np+feedback", "danp"])
def test_modules_replaced_after_construction_learn(rule):
    ppo = model(rule=rule)
    ppo.policy.action_net = nn.Linear(16, 1)
    ppo.policy.optimizer = torch.optim.Adam(ppo.policy.parameters(), 1e-3)
    before = ppo.policy.action_net.weight.clone()
    ppo.learn(64)
    assert not torch.equal(ppo.policy.action_net.weight, before)
    assert is_decorrelated(ppo.policy.action_net) == (rule == "danp")

    ppo.policy = model(rule=rule).policy
    before = weights(ppo)
    ppo.learn(64)
    assert not torch.equal(weights(ppo), before)

    sac = model(nprobot.SAC, rule=rule)
    sac.policy = model(nprobot.SAC, rule=rule).policy
    before = [p.clone() for p in sac.policy.actor.parameters()]
    sac.learn(60)
    assert not any(map(torch.equal, before, sac.policy.actor.parameters()))


def test_networks_that_stay_keep_their_feedback():
    ppo = model()
    actor = ppo.actor
    ppo.learn(32)
    ppo.learn(32, reset_num_timesteps=False)
    assert ppo.actor is actor
    assert len(ppo.rule.feedback.fits) == 2


# --- schedules


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, nprobot.NRL])
def test_learning_in_pieces_moves_the_weights_in_each(algorithm):
    given = {"rule": "np", "learning_rate": lambda remaining: 1e-3 * remaining}
    if algorithm is nprobot.NRL:
        some = algorithm("MlpPolicy", "Pendulum-v1", device="cpu", **given)
    else:
        some = model(algorithm, **given)
    for _ in range(5):
        before = weights(some)
        some.learn(32, reset_num_timesteps=False)
        assert not torch.equal(weights(some), before)


def test_a_schedule_refers_to_the_run_where_its_length_is_given(tmp_path):
    rates = []
    for run in (model(schedule_timesteps=128), model()):
        run.learning_rate = lambda remaining: remaining
        run._setup_lr_schedule()
        for _ in range(4):
            run.learn(32, reset_num_timesteps=False)
            rates.append(run.policy.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25, 1, 1 / 2, 1 / 3, 1 / 4])
    run.schedule_timesteps = 128
    run.save(tmp_path / "model")
    assert nprobot.PPO.load(tmp_path / "model").schedule_timesteps == 128


def test_a_rollout_beyond_the_end_does_not_climb():
    ppo = model(learning_rate=lambda remaining: remaining)
    ppo.learn(33)
    assert ppo.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1 / 33)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rate", [0.0, lambda remaining: 1e-3 * (1 - remaining)])
@pytest.mark.parametrize("rule", ["np+feedback", "danp"])
def test_schedules_that_begin_at_nothing(algorithm, rate, rule):
    some = model(algorithm, learning_rate=rate, rule=rule)
    learned = [p for name, p in some.policy.named_parameters() if "target" not in name]
    before, start = [p.clone() for p in learned], [m.R.clone() for m in decorrelated(some)]
    some.learn(64)
    assert all(map(torch.equal, learned, before)) == (rate == 0.0)
    assert rate != 0.0 or all(map(torch.equal, start, (m.R for m in decorrelated(some))))


def decorrelated(some):
    return [m for m in some.policy.modules() if hasattr(m, "R")]


# --- devices, files


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, nprobot.NRL])
def test_a_gpu_that_is_not_there_is_an_error(algorithm, tmp_path):
    with pytest.raises(ConfigError, match="torch sees no CUDA device on this machine"):
        algorithm("MlpPolicy", "Pendulum-v1", device="cuda")
    if algorithm is nprobot.PPO:
        model().save(tmp_path / "model")
        with pytest.raises(ConfigError, match="cuda:1"):
            nprobot.PPO.load(tmp_path / "model", device="cuda:1")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_plain_file_says_by_which_rule_it_continues(algorithm, tmp_path):
    theirs = plain(algorithm)("MlpPolicy", "Pendulum-v1", **settings(algorithm))
    theirs.save(tmp_path / "theirs")
    with pytest.warns(UserWarning, match=r"continues by NP \+ feedback \('np\+feedback'\).*'bp'"):
        ours = algorithm.load(tmp_path / "theirs", env=make_vec_env("Pendulum-v1"))
    ours.learn(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = algorithm.load(tmp_path / "theirs", rule="bp")
        ours.save(tmp_path / "ours")
        assert algorithm.load(tmp_path / "ours").rule.name == "np+feedback"
    assert told.rule.name == "bp"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_files_go_from_any_rule_to_any_other(algorithm, tmp_path):
    ours = model(algorithm, rule="danp", rule_kwargs={"samples": 3}).learn(64)
    theirs = plain(algorithm)("MlpPolicy", "Pendulum-v1", **settings(algorithm)).learn(64)
    ours.save(tmp_path / "ours")
    theirs.save(tmp_path / "theirs")
    observation = BOX.sample()

    def same(loaded, original):
        return action(loaded, observation) == pytest.approx(action(original, observation), abs=1e-5)

    assert same(plain(algorithm).load(tmp_path / "ours"), ours)  # folded on the way out
    again = algorithm.load(tmp_path / "ours")
    assert np.array_equal(action(again, observation), action(ours, observation))
    assert (again.rule.name, again.rule.samples) == ("danp", 3)
    for some, other in zip(decorrelated(again), decorrelated(ours), strict=True):
        assert torch.equal(some.R, other.R)
        assert torch.equal(some.weight, other.weight)
    for name in ("bp", "np", "dnp+feedback"):
        loaded = algorithm.load(tmp_path / "ours", rule=name, env=make_vec_env("Pendulum-v1"))
        assert loaded.rule.name == name
        assert same(loaded, ours)
        loaded.learn(40)
    more = algorithm.load(tmp_path / "ours", rule_kwargs={"sigma": 0.1})
    assert (more.rule.name, more.rule.samples, more.rule.sigma) == ("danp", 3, 0.1)
    custom = algorithm.load(tmp_path / "ours", custom_objects={"rule": "np", "learning_rate": 0.0})
    assert custom.rule.name == "np"
    assert same(custom, ours)
    from_plain = algorithm.load(tmp_path / "theirs", rule="danp")
    assert same(from_plain, theirs)
    assert all(torch.equal(m.R, torch.eye(len(m.R))) for m in decorrelated(from_plain))
    assert decorrelated(from_plain)


def test_a_file_that_sb3_has_learned_on_with_forgets_the_old_r(tmp_path):
    ours = model(rule="danp").learn(64)
    ours.save(tmp_path / "ours")
    theirs = stable_baselines3.PPO.load(tmp_path / "ours", env=make_vec_env("Pendulum-v1")).learn(
        64
    )
    theirs.save(tmp_path / "theirs")
    again = nprobot.PPO.load(tmp_path / "theirs", rule="danp")
    observation = BOX.sample()
    assert action(again, observation) == pytest.approx(action(theirs, observation), abs=1e-5)


@pytest.mark.parametrize("rule", ["np", "danp"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policies_saved_by_themselves_are_the_same(algorithm, rule, tmp_path):
    kwargs = {"features_extractor_kwargs": {"features_dim": 8}, "net_arch": [8]}
    some = model(algorithm, "CnnPolicy", Toy(IMAGE, TWO), rule=rule, policy_kwargs=kwargs)
    some.learn(64)
    some.policy.save(tmp_path / "policy")
    again = type(some.policy).load(tmp_path / "policy")
    observations = torch.as_tensor(np.stack([IMAGE.sample() for _ in range(3)]))
    some.policy.set_training_mode(False)
    if algorithm is nprobot.PPO:
        assert not again.share_features_extractor
        mine, loaded = (p.predict_values(observations) for p in (some.policy, again))
        torch.testing.assert_close(mine, loaded)
    torch.testing.assert_close(
        some.policy._predict(observations, deterministic=True),
        again._predict(observations, deterministic=True),
    )
    if algorithm is not nprobot.PPO:
        actor = some.policy.actor
        actor.save(tmp_path / "actor")
        torch.testing.assert_close(
            actor._predict(observations, deterministic=True),
            type(actor).load(tmp_path / "actor")._predict(observations, deterministic=True),
        )


def test_parameters_that_lack_an_r_are_refused():
    """Only where there is none at all do they come from a plain policy."""
    some = model(rule="danp")
    parameters = some.get_parameters()
    del parameters["policy"]["value_net.R"]
    with pytest.raises(RuntimeError, match=r"value_net\.R"):
        some.set_parameters(parameters)


def test_a_file_is_loaded_with_the_policy_arguments_that_it_was_made_with(tmp_path):
    kwargs = {"net_arch": [16, 16]}
    model(policy_kwargs=kwargs).save(tmp_path / "model")
    assert nprobot.PPO.load(tmp_path / "model", policy_kwargs=kwargs)
    buffer = io.BytesIO()
    model(rule="bp", policy_kwargs=kwargs).save(buffer)
    buffer.seek(0)
    assert nprobot.PPO.load(buffer, policy_kwargs=kwargs)


def test_a_plain_file_whose_networks_share_their_features_learns_on(tmp_path):
    kwargs = {"features_extractor_kwargs": {"features_dim": 8}}
    given = settings(nprobot.PPO, policy_kwargs=kwargs)
    stable_baselines3.PPO("CnnPolicy", Toy(IMAGE, TWO), **given).save(tmp_path / "theirs")
    ours = nprobot.PPO.load(tmp_path / "theirs", env=Toy(IMAGE, TWO), rule="np+feedback")
    assert list(ours.networks) == ["actor_critic"]
    before = weights(ours)
    ours.learn(32)
    assert not torch.equal(before, weights(ours))


class Recurrent(ActorCriticPolicy):
    """As sb3_contrib's has one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lstm_actor = nn.LSTM(3, 4)


def test_a_recurrent_policy_is_refused_by_its_name():
    with pytest.raises(ArchitectureError, match=r"Recurrent is recurrent.*RecurrentPPO"):
        model(policy=Recurrent)


class Narrow(ActorCriticPolicy):
    """A policy with a signature of its own."""

    def __init__(self, observation_space, action_space, lr_schedule, use_sde=False):
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[8])


def test_a_policy_without_every_argument_of_sb3s():
    assert nprobot.PPO(Narrow, "Pendulum-v1", **ON_POLICY).learn(32)


# --- spaces


@pytest.mark.parametrize(
    ("algorithm", "observations", "actions", "message"),
    [
        (nprobot.PPO, BOX, spaces.Discrete(3, start=1), r"PPO.*begin at 1.*add the start"),
        (nprobot.PPO, BOX, spaces.MultiDiscrete([2, 3], start=[0, 5]), r"begin at \[0 5\]"),
        (nprobot.PPO, BOX, spaces.MultiDiscrete([[2, 3], [2, 3]]), "one dimension"),
        (nprobot.PPO, BOX, spaces.MultiBinary([2, 2]), "one dimension"),
        (nprobot.PPO, BOX, spaces.Tuple([TWO, TWO]), "have a policy"),
        (nprobot.PPO, BOX, spaces.Box(-np.inf, np.inf, (2,)), "no bound"),
        (nprobot.PPO, BOX, HALF, "no bound"),
        (nprobot.PPO, spaces.Discrete(3, start=-1), TWO, "begin at -1"),
        (nprobot.PPO, spaces.Dict(a=BOX, b=spaces.Discrete(3, start=1)), TWO, "begin at 1"),
        (nprobot.SAC, BOX, spaces.Discrete(3), r"SAC.*PPO learns discrete"),
        (nprobot.TD3, BOX, spaces.MultiBinary(3), "PPO learns discrete"),
        (nprobot.NRL, BOX, spaces.Discrete(3), r"NRL.*PPO learns discrete"),
        (nprobot.NRL, BOX, spaces.Box(-np.inf, np.inf, (2,)), "no bound"),
        (nprobot.SAC, BOX, FIXED, "no range"),
        (nprobot.NRL, BOX, FIXED, "no range"),
        (nprobot.PPO, BOX, spaces.Box(-3, 3, (1,), np.int32), "int32.*any real number"),
        (nprobot.SAC, BOX, spaces.Box(-3, 3, (1,), np.int32), "int32.*any real number"),
        (nprobot.NRL, BOX, spaces.Box(-1, 1, (0,)), "none"),
    ],
)
@pytest.mark.parametrize("rule", ["np", "bp"])
def test_spaces_that_would_be_learned_wrongly_are_refused(
    algorithm, observations, actions, message, rule
):
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    with (
        warnings.catch_warnings(),
        pytest.raises(EnvironmentUnavailableError, match=message),
    ):
        warnings.simplefilter("ignore")
        algorithm(policy, Toy(observations, actions), rule=rule)


def test_an_action_without_a_range_is_no_matter_to_ppo():
    some = model(env=Toy(BOX, FIXED)).learn(32)
    assert FIXED.contains(action(some, BOX.sample()))


@pytest.mark.parametrize(
    ("algorithm", "actions", "said"),
    [
        (nprobot.PPO, spaces.Box(-1000, 1000, (1,)), "action 0 ranges from -1000 to 1000"),
        (nprobot.PPO, spaces.Box(-0.01, 0.01, (1,)), "ranges from -0.01 to 0.01"),
        (nprobot.PPO, spaces.Box(np.float32([-1, 0]), np.float32([1, 1])), "action 1 ranges from"),
        (nprobot.PPO, TWO, ""),
        (nprobot.SAC, spaces.Box(-1000, 1000, (1,)), ""),
    ],
)
def test_ranges_of_actions_in_which_learning_begins_badly_are_said(algorithm, actions, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        algorithm("MlpPolicy", Toy(BOX, actions), device="cpu")
    found = [str(w.message) for w in caught if w.category is EnvironmentWarning]
    assert said in found[0] if said else not found


@pytest.mark.parametrize(("home", "said"), [(0.9, "home pose holds action 0 at 0.9"), (0.3, "")])
def test_a_home_pose_that_the_first_actions_leave_is_said(home, said):
    class Posed(Toy):
        model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><body><joint name='j'/><geom size='.1'/></body></worldbody>"
            "<actuator><position joint='j' ctrlrange='-1 1'/></actuator>"
            f"<keyframe><key name='home' ctrl='{home}'/></keyframe></mujoco>"
        )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nprobot.SAC("MlpPolicy", Posed(BOX, spaces.Box(-1, 1, (1,))), device="cpu")
    found = [str(w.message) for w in caught if w.category is EnvironmentWarning]
    assert said in found[0] if said else not found


class Observing(gymnasium.Env):
    """Writes into one array, and says in the fourth step what it is told to."""

    observation_space = BOX
    action_space = TWO

    def __init__(self, fourth=None, terminated=False):
        self.fourth = fourth
        self.terminated = terminated
        self.seen = np.zeros(3, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action):
        self.steps += 1
        self.seen[:] = self.steps / 8
        if self.steps == 4 and self.fourth is not None:
            return self.fourth, 0.0, False, False, {}
        return self.seen, 0.0, self.terminated, self.steps == 8, {}


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, nprobot.NRL])
@pytest.mark.parametrize(
    ("fourth", "message"),
    [
        (np.zeros(1, np.float32), r"in step 4: its observation has shape \(1,\)"),
        (np.float32(0.5), r"has shape \(\)"),
        (np.zeros(3, np.complex64), "type complex64"),
    ],
)
def test_observations_that_do_not_fit_are_refused_with_their_step(algorithm, fourth, message):
    for env in (Observing(fourth), DummyVecEnv([lambda: Observing(fourth)])):
        with pytest.raises(ObservationError, match=message):
            algorithm("MlpPolicy", env, device="cpu").learn(200)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, nprobot.NRL])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observations_that_are_not_finite_reach_no_weight(algorithm, value):
    some = algorithm("MlpPolicy", Observing(np.float32([0, value, 0])), device="cpu")
    with pytest.raises(NonFiniteError, match=r"environment 0 in step 4.*at index \[1\]"):
        some.learn(200)
    assert all(bool(p.isfinite().all()) for p in some.policy.parameters())


def test_an_episode_that_does_not_say_whether_it_ended_is_refused():
    with pytest.raises(ObservationError, match="terminated=None in step 1"):
        model(env=Observing(terminated=None)).learn(32)


@pytest.mark.parametrize("own", [True, False])
def test_last_observations_survive_an_array_that_is_written_over(own):
    env = Observing() if own else DummyVecEnv([Observing])
    some = model(nprobot.SAC, env=env).learn(30)
    ended = some.replay_buffer.dones[:30, 0].astype(bool)
    assert ended.sum() == 3
    assert (some.replay_buffer.next_observations[:30, 0][ended] == 1.0).all()


# --- logs


def test_losses_have_the_names_and_the_meaning_of_sb3(tmp_path):
    def logged(some):
        some.set_logger(configure(str(tmp_path), ["json"]))
        some.learn(32)
        return some.logger.name_to_value

    more = {"ent_coef": 0.1, "batch_size": 32, "learning_rate": 0.0}
    kwargs = {**settings(nprobot.PPO, **more), "seed": 3}
    theirs = logged(stable_baselines3.PPO("MlpPolicy", "CartPole-v1", **kwargs))
    ours = logged(nprobot.PPO("MlpPolicy", "CartPole-v1", rule="np", **kwargs))
    assert {name for name in theirs if name.startswith("train/")} <= ours.keys()
    for name in ("loss", "entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl"):
        value = ours[f"train/{name}"]
        assert value == pytest.approx(theirs[f"train/{name}"], rel=1e-4, abs=1e-6), name


# --- ordinary calls


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_arguments_stand_in_the_order_of_sb3(algorithm):
    if algorithm is nprobot.PPO:
        some = algorithm("MlpPolicy", "Pendulum-v1", 1e-3, 128, 32, 7, device="cpu")
        assert (some.n_steps, some.batch_size, some.n_epochs) == (128, 32, 7)
    else:
        some = algorithm("MlpPolicy", "Pendulum-v1", 1e-3, 500, 10, 16, device="cpu")
        assert (some.buffer_size, some.learning_starts, some.batch_size) == (500, 10, 16)
    assert some.learning_rate == 1e-3
    with pytest.raises(TypeError, match="learning_rate twice"):
        algorithm("MlpPolicy", "Pendulum-v1", 1e-3, learning_rate=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_optimisers_that_cannot_step_on_an_estimate_are_refused(algorithm):
    def made(cls, **kwargs):
        given = {"optimizer_class": cls, "optimizer_kwargs": kwargs, "net_arch": [8]}
        return model(algorithm, policy_kwargs=given)

    with pytest.raises(ConfigError, match="LBFGS evaluates the loss several times"):
        made(torch.optim.LBFGS)
    with pytest.raises(ConfigError, match="differentiable=True"):
        made(torch.optim.Adam, differentiable=True)
    assert made(torch.optim.SGD, momentum=0.9).learn(40)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_double_precision_is_refused_in_words(algorithm):
    some = model(algorithm)
    some.policy.double()
    with pytest.raises(ArchitectureError, match=r"float64.*call policy.float\(\)"):
        some.learn(32)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rule", ["np+feedback", "danp"])
def test_a_batch_of_one(algorithm, rule):
    more = {"normalize_advantage": False} if algorithm is nprobot.PPO else {}
    some = model(algorithm, batch_size=1, rule=rule, **more)
    before = weights(some)
    some.learn(32)
    assert not torch.equal(weights(some), before)
    assert torch.isfinite(weights(some)).all()


def test_no_limit_of_gradients_is_read_by_sb3(tmp_path):
    model(max_grad_norm=None).save(tmp_path / "model")
    theirs = stable_baselines3.PPO.load(tmp_path / "model", env=make_vec_env("Pendulum-v1"))
    assert theirs.learn(32)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, nprobot.NRL])
def test_models_name_themselves_without_their_weights(algorithm):
    some = algorithm("MlpPolicy", "Pendulum-v1", device="cpu")
    assert repr(some).startswith(f"{algorithm.__name__}(")
    assert "num_timesteps=0)" in repr(some)
    assert "tensor" not in repr(some)
    assert len(repr(some)) < 300


# --- gSDE, and features extractors that actor and critic share


def exact(algorithm, policy="MlpPolicy", env="Pendulum-v1", steps=64, **more):
    """SB3's model and ours, which has learned in the rules' loop by exact gradients."""

    def arguments():
        return copy.deepcopy(settings(algorithm, **more))  # SB3 writes into policy_kwargs

    theirs = plain(algorithm)(policy, env, **arguments()).learn(steps)
    return theirs, algorithm(policy, env, rule=ExactGradients(), **arguments()).learn(steps)


@pytest.mark.parametrize(
    "more",
    [{}, {"full_std": False}, {"use_expln": True, "log_std_init": 0.3}, {"squash_output": True}],
)
def test_gsde_by_exact_gradients_is_sb3s(more):
    kwargs = {"net_arch": [16], "share_features_extractor": False, "log_std_init": -2.0, **more}
    given = {"ent_coef": 0.01, "max_grad_norm": 1e9, "learning_rate": lambda remaining: 1e-3}
    theirs, ours = exact(nprobot.PPO, use_sde=True, policy_kwargs=kwargs, **given)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=1e-5)


def test_a_shared_extractor_by_exact_gradients_is_sb3s():
    shared = extractor(lambda: [nn.Linear(3, 8), nn.Tanh()])
    shared["share_features_extractor"] = True
    given = {"learning_rate": lambda remaining: 1e-3}
    theirs, ours = exact(nprobot.PPO, policy_kwargs=shared, **given)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=1e-5)
    for algorithm in (nprobot.SAC, nprobot.TD3):
        theirs, ours = exact(algorithm, policy_kwargs=shared, **given)
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["np+feedback", "np", "danp", "inp", "dnp+feedback"])
def test_gsde_and_shared_extractors_learn_without_autograd(rule, tmp_path):
    shared = extractor(lambda: [nn.Linear(3, 8), nn.Tanh()])
    shared["share_features_extractor"] = True
    for algorithm in (nprobot.PPO, nprobot.SAC):
        some = model(algorithm, rule=rule, use_sde=True, policy_kwargs=dict(shared))
        before = {name: p.clone() for name, p in some.policy.named_parameters()}
        some.learn(80)
        assert some.rule.backward_passes == 0
        moved = [n for n, p in some.policy.named_parameters() if not torch.equal(p, before[n])]
        stay = {n for n in before if n not in moved}
        assert not stay
        some.save(tmp_path / "model")
        algorithm.load(tmp_path / "model", env=make_vec_env("Pendulum-v1")).learn(40)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("expln", [True, False])
def test_the_gradient_of_a_state_dependent_spread(full, expln):
    distribution = StateDependentNoiseDistribution(2, full_std=full, use_expln=expln)
    log_std = nn.Parameter(torch.randn(5, 2 if full else 1))
    distribution.latent_sde_dim = 5
    latent, error = torch.randn(7, 5), torch.randn(7, 2)
    head = StateDependentStd(log_std, distribution)
    expected = distribution.proba_distribution(torch.zeros(7, 2), log_std, latent).distribution
    torch.testing.assert_close(head(latent).exp(), expected.stddev)
    (error * expected.stddev.log()).sum().backward()
    torch.testing.assert_close(head.gradient(error, latent), log_std.grad)


def test_the_spread_of_gsde_has_no_limit_but_its_own():
    kwargs = {"log_std_init": 5.0, "net_arch": [16]}
    assert model(nprobot.SAC, use_sde=True, policy_kwargs=kwargs).learn(30)


@pytest.mark.parametrize("squashed", [False, True])
def test_gsde_estimates_point_along_the_gradient(squashed):
    kwargs = {"squash_output": squashed, "net_arch": [16], "ortho_init": False}
    some = model(use_sde=True, policy_kwargs=kwargs, rule="inp", rule_kwargs={"samples": 2000})
    observations = torch.randn(8, 3)
    actions = torch.rand(8, 1) - 0.5
    outputs = some.actor(observations)
    old = some.distribution.log_prob(outputs, actions).detach()
    surrogate = ClippedSurrogate(some.distribution, actions, old, torch.randn(8), 0.2, 0.01)
    result = alignment(some.rule, some.actor, observations, surrogate)
    assert min(layer.cosine for layer in result.layers) > 0.95
    assert result.cosine == pytest.approx(1, abs=0.05)
    assert result.total.norm_ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("algorithm", [nprobot.PPO, nprobot.SAC, nprobot.TD3])
def test_a_policy_can_be_copied_as_soon_as_it_is_made(algorithm):
    policy = algorithm("MlpPolicy", "Pendulum-v1", seed=0).policy
    other = copy.deepcopy(policy)
    assert all((a == b).all() for a, b in zip(policy.parameters(), other.parameters(), strict=True))
