"""`nprobot adapt` and `nprobot deploy --adapt`: a trained policy continues to learn on a robot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from nprobot.adaptation.adaptation_config import AdaptationConfig
from nprobot.adaptation.faults import KINDS, ActuatorFault, usual_faults
from nprobot.catalogue import trust_flag
from nprobot.deploy.conditions import Conditions
from nprobot.deploy.controller import load_policy
from nprobot.deploy.simulation import make_robot
from nprobot.errors import ConfigError, ExistsError
from nprobot.runs.atomic_files import free_name, quoted
from nprobot.runs.folder import default_path
from nprobot.runs.interruption import exit_code
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import DeployablePolicy, trust

from .arguments import OLD_FLAGS, parse
from .terminal import DONE, Display, facts, say
from .view import PageOptions, announce_later

if TYPE_CHECKING:
    from nprobot.adaptation import Adapted
    from nprobot.adaptation.adaptation_run import Attendant
    from nprobot.training.environments import Env

WITHOUT_END = 10**9
"""Steps with a page: until Ctrl-C."""

HELP = """\
Let a trained policy continue to learn on a simulated robot whose actuators
become faulty: by NRL, on-line, with forward passes only. For the first steps it
learns only what to expect; then the faults strike. At the end there is a policy
folder with what was learned, a curve, and the episodes.

A fault is KIND:ACTUATOR=SIZE, actuators numbered from 0 on:
{kinds}

examples:
  nprobot adapt zoo:Reacher
      the usual faults: gain:0=0.4 and drift:1=0.2
  nprobot adapt runs/reacher --fault gain:0=0.4 offset:1=-0.1 --steps 100000
  nprobot adapt my-policy --fault fade:0=0.5 --actuators torque-motor --robots 1
  nprobot adapt zoo:Reacher --web
      break motors on a page in the browser, and watch it relearn, until Ctrl-C
  nprobot adapt my-policy --frozen
      the same without learning, to compare with
"""


@dataclass(frozen=True)
class FaultyRobot:
    """The simulated robot, and what happens to it."""

    env: str | None = None
    """Environment id. Left out: the one it was trained on."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of the environment, as name value pairs."""
    trust: bool = False
    """Import the module that the policy's environment is in, which runs it."""
    fault: tuple[str, ...] = ()
    """Faults that strike after the calibration. Left out: gain:0=0.4 and drift:1=0.2."""


@dataclass(frozen=True)
class Adapt:
    """Options of the command."""

    policy: Annotated[str, tyro.conf.Positional]
    """A run folder, a policy folder, or zoo:NAME."""
    out: Path | None = None
    """The policy folder to make. Left out: adapted-NAME-TIME."""
    page: PageOptions = field(default_factory=PageOptions)
    robot: FaultyRobot = field(default_factory=FaultyRobot)
    learning: AdaptationConfig = field(default_factory=AdaptationConfig)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    kinds = "\n".join(f"  {kind:<7} {about}" for kind, about in KINDS.items())
    old = {**OLD_FLAGS, "--noise": "--noise-source"}
    options = parse(Adapt, arguments, "adapt", HELP.format(kinds=kinds), old_flags=old)
    config, robot = options.learning, options.robot
    policy = load_policy(options.policy)
    if robot.trust:
        trust(policy)
    faults = tuple(map(ActuatorFault.parse, robot.fault))
    out = options.out or default_folder(options.policy)

    def make() -> Env:
        return make_robot(policy, robot.env, env_kwargs=robot.env_kwargs or None).env

    console = Console()
    if options.page.web:
        if faults:
            raise ConfigError("with --web you break motors on the page; leave --fault away")
        if config.steps == AdaptationConfig().steps:
            config = config.replace(steps=WITHOUT_END)
        with open_page(policy, options, config, console) as attendant:
            result = learn(policy, make, (), config, out, console, attendant)
    else:
        usual = () if config.dead_nodes else None
        result = learn(policy, make, faults or usual, config, out, console)
    show(console, result)
    say(console, f"Policy: {out}")
    if result.interrupted:
        return exit_code()
    flag = trust_flag(policy.task.id, policy.task.kwargs) if policy.task else ""
    say(console, f"Next: nprobot deploy {quoted(out)}{flag}")
    return DONE


@contextmanager
def open_page(
    policy: DeployablePolicy, options: Adapt, config: AdaptationConfig, console: Console
) -> Iterator[Attendant]:
    """A page on which visitors break motors, and what `adapt` is handed for it."""
    from nprobot.adaptation import check_trainable
    from nprobot.view.learning_page import LearningPage, LearningSetup
    from nprobot.view.live_learners import AdaptationPage

    trainable, robot, shown = check_trainable(policy), options.robot, options.page
    conditions = Conditions(actuators=config.actuators)
    setup = LearningSetup(
        title=f"nprobot: {options.policy} learns",
        policy=trainable,
        env=robot.env,
        env_kwargs=robot.env_kwargs or None,
        conditions=conditions,
        adapts=True,
        seed=config.seed,
    )
    found = partial(announce_later, host=shown.host, console=console)
    with LearningPage(setup, shown.host, shown.port_or_default, found=found) as page:
        yield AdaptationPage(trainable, page, conditions)


@dataclass(frozen=True)
class AdaptOptions:
    """Learning on the robot."""

    adapt: bool = False
    """Continue to learn on this robot with NRL, by forward passes only, and say what that
    changed."""
    adapt_steps: int = 50_000
    """Control steps that it learns for; in the first fifth it only finds out what to expect."""
    adapt_out: Path | None = None
    """The policy folder for what was learned. Left out: adapted-NAME-TIME."""


def adapt_on_robot(
    policy: DeployablePolicy,
    reference: str,
    make_robot: Callable[[], Env],
    actuators: str | None,
    options: AdaptOptions,
    *,
    seed: int,
    as_json: bool,
) -> int:
    """Learn on one robot, keep what was learned, and say what changed; returns the exit code.

    Args:
        policy: what it starts from.
        reference: how the user named it.
        make_robot: makes the robot with ideal actuators.
        actuators: preset of its actuators; None for ideal ones.
        options: the options of the command.
        seed: the seed of everything random.
        as_json: print one JSON object instead of a table.

    Raises:
        RuleError: NRL cannot train the policy.
        ExistsError: the folder is there already.
    """
    if options.adapt_steps < 5:
        raise ConfigError(f"--adapt-steps must be 5 or more, got {options.adapt_steps}")
    config = AdaptationConfig(
        steps=options.adapt_steps,
        calibration=options.adapt_steps // 5,
        robots=1,
        actuators=actuators,
        seed=seed,
    )
    out = options.adapt_out or default_folder(reference)
    console = Console(stderr=as_json)
    result = learn(policy, make_robot, (), config, out, console)
    if as_json:
        before, after = result.before, result.after
        found = {
            "env": after.env,
            "steps": result.steps,
            "return_before": before.mean,
            "return_after": after.mean,
            "returns_before": before.returns,
            "returns_after": after.returns,
            "policy": str(out),
        }
        print(json.dumps(found))
    else:
        show(console, result)
        say(console, f"Policy: {out}")
    return exit_code() if result.interrupted else DONE


def default_folder(reference: str) -> Path:
    """Where an adapted policy goes by default."""
    name = reference.removeprefix("zoo:").rstrip("/").rpartition("/")[2] or "policy"
    return default_path("adapted", name, root=Path())


def learn(
    policy: DeployablePolicy,
    make: Callable[[], Env],
    faults: Sequence[ActuatorFault] | None,
    config: AdaptationConfig,
    out: Path,
    console: Console,
    attendant: Attendant | None = None,
) -> Adapted:
    """Let a policy learn on a robot, and keep what it has learned.

    Args:
        policy: what it starts from.
        make: makes the robot with ideal actuators.
        faults: that strike it; None for the usual ones.
        config: how it learns.
        out: the policy folder to make.
        console: where progress is shown.
        attendant: of `adapt`.

    Raises:
        RuleError: NRL cannot train the policy.
        ExistsError: the folder is there already.
    """
    if out.exists():
        raise ExistsError(
            f"{out} is there already; choose another folder, such as {quoted(free_name(out))}"
        )
    silence_mujoco()
    make().close()
    # Everything above answers at once; torch takes seconds to load.
    import torch

    from nprobot.adaptation import adapt, check_trainable, save_adapted

    trainable = check_trainable(policy)
    if faults is None:
        faults = usual_faults(trainable.action.outputs)
    torch.set_num_threads(1)
    with Display(console) as shown:
        if faults:
            told = ", ".join(map(str, faults))
            shown.message(f"{told} after {config.calibration:,} steps")
        result = adapt(trainable, make, faults, config, reporter=shown, attendant=attendant)
    save_adapted(result, out, faults, config)
    return result


def show(console: Console, result: Adapted) -> None:
    """Print what learning on the robot has changed."""
    count = len(result.after.returns)
    rows = {}
    if result.before is not result.healthy:
        rows["healthy robot"] = f"{result.healthy} (policy as it was)"
    rows |= {"before": f"{result.before} (policy as it was)", "after": f"{result.after} (adapted)"}
    if result.before is not result.healthy:
        recovered = result.recovered
        rows["recovered"] = "no" if recovered is None else f"after {recovered:,} steps"
    rows |= {
        "steps": f"{result.steps:,}, of which {min(result.struck, result.steps):,} calibration",
        "passes": f"{result.forward_passes:,} forward, none backward",
    }
    title = f"{result.after.env}: return of {count} episodes without exploration"
    console.print(facts(title, rows), highlight=False, markup=False)
