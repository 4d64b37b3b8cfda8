"""What a robot works under: actuators and their faults, a noisy chip, a load. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from nprobot import catalogue
from nprobot.adaptation.faults import ActuatorFault
from nprobot.envs import ActionChunks, NoisyActuators
from nprobot.envs.actuators import ActuatorModel, ActuatorOracle, Latency, scale_noise
from nprobot.errors import ConfigError, DeployError, UnknownNameError
from nprobot.options import NotNegative, Options, Share
from nprobot.policies.files.policy import Array, Policy, as_batch
from nprobot.training.evaluation import DeployablePolicy

from .simulation import SimulatedRobot
from .steering import SteeredEnv, Steering

if TYPE_CHECKING:
    from nprobot.policies.chip import ChipModel


@dataclass(frozen=True)
class Conditions(Options):
    """What stands between a policy and its robot.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there are no such actuators, noise, fault or chip.
    """

    actuators: str | None = None
    """Actuators between policy and robot: servo, torque-motor, worn-gearbox, easy, medium, hard."""
    noise: NotNegative = 1.0
    """Strength of all noise of these actuators, as a multiple of the preset's."""
    noise_strength: tuple[str, ...] = ()
    """Strength of one noise of these actuators, such as WhiteNoise.std=0.1."""
    latency: NotNegative = 0.0
    """Seconds by which every command comes late, beside what the actuators do."""
    fault: tuple[str, ...] = ()
    """What has happened to an actuator, such as gain:0=0.4 or stuck:1=0 (nprobot adapt --help)."""
    chip: str | None = None
    """Noisy chip that the network runs on: analog, spintronic, or a standard deviation."""
    dead_nodes: Share = 0.0
    """Share of the nodes of every layer that have failed."""
    load: NotNegative = 0.0
    """Load on a body, kg."""
    load_body: str | None = None
    """The body that carries it. Left out: the heaviest."""

    def check(self) -> None:
        """Refuse what cannot be made."""
        self.models()
        if self.chip is not None:
            try:
                level = float(self.chip)
            except ValueError:
                return  # a preset; torch is loaded before it is looked up
            if not 0 <= level < np.inf:
                raise ConfigError(f"chip must be a preset or 0 or more, got {self.chip}")

    @property
    def ideal_chip(self) -> bool:
        """Whether the network runs as it was written."""
        return self.chip is None and self.dead_nodes == 0

    def models(self) -> tuple[ActuatorModel, ...]:
        """What the actuators do to commands, in order."""
        presets = catalogue.actuator_presets()
        if self.actuators is not None and self.actuators not in presets:
            raise UnknownNameError("actuators", self.actuators, presets)
        models = scale_noise(self.actuators or "ideal", self.noise)
        for text in self.noise_strength:
            models = with_strength(models, text)
        late = (Latency(self.latency),) if self.latency else ()
        faults = (ActuatorFault.parse(text).model(0.0) for text in self.fault)
        return (*models, *late, *faults)


def noises(models: tuple[ActuatorModel, ...]) -> dict[str, float]:
    """The strength of every noise of actuators, such as ``{"WhiteNoise.std": 0.05}``."""
    return {
        f"{type(model).__name__}.{field.name}": getattr(model, field.name)
        for model in models
        for field in dataclasses.fields(model)
        if field.metadata["noise"]
    }


def with_strength(models: tuple[ActuatorModel, ...], text: str) -> tuple[ActuatorModel, ...]:
    """The same actuators with one noise as strong as a text such as ``WhiteNoise.std=0.1`` says.

    Raises:
        ConfigError: it cannot be read, or the strength is not allowed.
        UnknownNameError: these actuators have no such noise.
    """
    name, _, number = text.partition("=")
    try:
        strength = float(number)
    except ValueError:
        raise ConfigError(f"cannot read {text!r}; write MODEL.PARAMETER=STRENGTH") from None
    known = noises(models)
    if name not in known:
        raise UnknownNameError("noise of these actuators", name, known)
    kind, _, parameter = name.partition(".")
    return tuple(
        model.replace(**{parameter: strength}) if type(model).__name__ == kind else model
        for model in models
    )


class EquippedRobot:
    """A simulated robot whose conditions can change while it works.

    Args:
        robot: with ideal actuators, from `make_robot`.
        conditions: to begin with.
        seed: secret part of the seed of the actuators' noise; see `NoisyActuators`.
        oracle: told what the actuators really did.
        steering: what the robot is told to do in every episode, and what pushes it.

    Attributes:
        robot: the same with its actuators; what `deploy_episodes` takes.
        conditions: the present ones.

    Raises:
        DeployError: the robot cannot be under these conditions.
        NprobotError: as `NoisyActuators` and `SteeredEnv`.
    """

    def __init__(
        self,
        robot: SimulatedRobot,
        conditions: Conditions,
        *,
        seed: int | np.random.SeedSequence | None = None,
        oracle: ActuatorOracle | None = None,
        steering: Steering | None = None,
    ) -> None:
        inner: Any = robot.env.unwrapped
        self._model = getattr(inner, "model", None)
        if self._model is not None:
            self._masses: npt.NDArray[np.float64] = self._model.body_mass.copy()
        self._actuated: NoisyActuators | None = None
        if isinstance(robot.env.action_space, spaces.Box):
            env, models = robot.env, ()
            chunk = env.size if isinstance(env, ActionChunks) else None
            env = env.env if isinstance(env, ActionChunks) else env
            if isinstance(env, NoisyActuators):  # a randomised robot's own, until others are named
                env, models = env.env, inner.randomised_actuators
            self._actuated = NoisyActuators(env, models, seed=seed, oracle=oracle)
            made = self._actuated if chunk is None else ActionChunks(self._actuated, chunk)
            robot = replace(robot, env=made)
        if steering is not None and steering != Steering():
            robot = replace(robot, env=SteeredEnv(robot.env, steering, robot.id))
        self.robot = robot
        self.conditions = Conditions()
        self.change(conditions)

    @property
    def bodies(self) -> list[str]:
        """Names of the bodies that can carry a load."""
        if self._model is None:
            return []
        names = [self._model.body(number).name for number in range(1, self._model.nbody)]
        return [name for name in names if name]

    def change(self, conditions: Conditions) -> None:
        """Put the robot under other conditions; nothing has changed if they are refused."""
        before = self.conditions
        models = conditions.models()
        body = self._body(conditions) if conditions.load else None
        if models != before.models():
            if self._actuated is None:
                raise DeployError(f"{self.robot.id} takes no continuous actions: no actuators")
            for text in conditions.fault:
                self._check_fault(ActuatorFault.parse(text))
            self._actuated.refit(models)
        if (conditions.load, conditions.load_body) != (before.load, before.load_body):
            self._hang(body, conditions.load)
        self.conditions = conditions
        self.robot = replace(self.robot, actuators=conditions.actuators)

    def _check_fault(self, fault: ActuatorFault) -> None:
        assert self._actuated is not None, "looked at before"
        motors = int(np.prod(self._actuated.action_space.shape or (1,)))
        if fault.actuator >= motors:
            raise DeployError(f"{fault}: this robot has {motors} motors, numbered from 0 on")

    def _body(self, conditions: Conditions) -> int:
        if self._model is None or not self.bodies:
            raise DeployError(f"{self.robot.id} has no MuJoCo body that could carry a load")
        if conditions.load_body is None:
            return int(np.argmax(self._masses))
        if conditions.load_body not in self.bodies:
            raise UnknownNameError("body", conditions.load_body, self.bodies)
        return int(self._model.body(conditions.load_body).id)

    def _hang(self, body: int | None, kilograms: float) -> None:
        """Add a point mass at the centre of mass of a body; the only load."""
        import mujoco

        assert self._model is not None
        self._model.body_mass[:] = self._masses
        if body is not None:
            self._model.body_mass[body] += kilograms
        mujoco.mj_setConst(self._model, mujoco.MjData(self._model))


class ChipPolicy(Policy):
    """A policy whose network runs on an emulated noisy chip; needs torch.

    Args:
        policy: what is written to the chip.
        models: what is wrong with the chip, as `nprobot.NoisyNetwork` takes it.
        seed: which chip it is, and of its noise.
    """

    def __init__(self, policy: Policy, models: list[float | str | ChipModel], seed: int) -> None:
        from nprobot.policies.chip import put_on_chip
        from nprobot.policies.files.torch_policy import TorchPolicy

        super().__init__(**{f.name: getattr(policy, f.name) for f in dataclasses.fields(policy)})
        network = TorchPolicy(policy)
        put_on_chip(network.network, models, seed=seed, device_seed=seed)
        object.__setattr__(self, "_network", network)

    def predict(self, observation: npt.ArrayLike) -> Array:
        """See `Policy.predict`; each call answers differently, because the chip is noisy."""
        lead, x = as_batch(observation, self.observation_shape)
        network: Any = object.__getattribute__(self, "_network")
        actions: Array = network.predict(np.asarray(x, np.float64))
        return actions.reshape(lead + actions.shape[1:])


def policy_under(
    policy: DeployablePolicy, conditions: Conditions, seed: int = 0
) -> DeployablePolicy:
    """The policy as it computes under these conditions; itself where no chip is asked for.

    Raises:
        DeployError: an ONNX policy, which cannot be put on a chip.
        UnknownNameError: there is no such chip.
    """
    if conditions.ideal_chip:
        return policy
    if not isinstance(policy, Policy):
        raise DeployError("an ONNX policy cannot be put on a chip; give the policy folder")
    from nprobot.policies.chip import DeadNodes

    models: list[float | str | ChipModel] = []
    if conditions.chip is not None:
        try:
            models.append(float(conditions.chip))
        except ValueError:
            models.append(conditions.chip)
    if conditions.dead_nodes:
        models.append(DeadNodes(conditions.dead_nodes))
    return ChipPolicy(policy, models, seed)
