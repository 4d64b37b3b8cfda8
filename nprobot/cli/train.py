"""`nprobot train`: train a policy, or continue a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from nprobot import catalogue
from nprobot.catalogue import import_trusted, trust_flag
from nprobot.defaults import PARALLEL, TUNED, choose, fill, zoo_settings
from nprobot.errors import ArchitectureError, ConfigError, DamagedFileError, NotFoundError
from nprobot.options import Positive
from nprobot.policies.files.policy import Policy
from nprobot.runs.atomic_files import quoted
from nprobot.runs.interruption import exit_code
from nprobot.training.environments import (
    check_kwargs,
    check_spaces,
    find_spec,
    make,
    silence_mujoco,
)
from nprobot.training.evaluation import DeployablePolicy
from nprobot.training.run_config import RunConfig
from nprobot.training.run_folder import RunFolder

from .arguments import RobotOptions, check_device, parse, require_device
from .terminal import DONE, Display, duration, facts, say
from .view import PageOptions, announce_later

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback

    from nprobot.training.from_policy import Start
    from nprobot.training.training_run import Result


HELP = """\
Train a policy by node perturbation, without a backward pass (or by backprop,
to compare). Without any option: NP with learned feedback on InvertedPendulum-v5
until it balances. Ctrl-C ends a run with a checkpoint; --resume continues from
there, and from the last checkpoint of a run that was killed.

examples:
  nprobot train
  nprobot train --env Reacher-v5 --rule danp --samples 8 --steps 300000 --out runs/reacher
  nprobot train --robot scene.xml --task velocity --randomise --out runs/walker
  nprobot train --env Reacher-v5 --rule bp --steps 300000 --seed 1
  nprobot train --env Reacher-v5 --algo nrl --actuators torque-motor --steps 100000
  nprobot train --env Reacher-v5 --chip analog --actuators torque-motor --steps 100000
      on hardware whose noise nobody can read
  nprobot train --from zoo:HalfCheetah --steps 200000 --out runs/cheetah
      PPO that starts where that policy ended; also from a clone of nprobot fit
  nprobot train --resume runs/reacher --steps 600000
  nprobot train --env Reacher-v5 --web
      the policy as it is and the curve, on a page in the browser
"""


@dataclass(frozen=True)
class Output:
    """Where the run is kept, and where it computes."""

    out: Path | None = None
    """The run folder to make. Left out: runs/ENV-ALGO-RULE-SEED-TIME."""
    resume: Path | None = None
    """A run folder: continue from its last good checkpoint, as if the run had never stopped. Only
    --steps, --stop-at, --checkpoint-every, --evaluate-every, --workers, --env-timeout, --device and
    --trust may be given with it."""
    trust: bool = False
    """Import the modules that a resumed run names, for its environment or rule, which runs them."""
    device: str | None = None
    """Device of the networks: cpu or cuda. Left out: cpu, and where they were in a run that is
    resumed. Small networks are fastest on the CPU."""


@dataclass(frozen=True)
class Train:
    """Options of the command."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    robot: RobotOptions = field(default_factory=RobotOptions)
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Policy to start from: zoo:NAME, a run folder, a policy folder, a clone of nprobot fit
    --demonstrations; or with --trust the .zip of stable-baselines3, with the VecNormalize that it
    was trained behind as vecnormalize.pkl beside it. Environment, network and normaliser are its
    own; the critic begins anew."""
    start_std: Positive | None = None
    """With --from: standard deviation of the exploration at the start, as a share of half the range
    of the actions (ppo). Left out: what the policy says, or 0.1."""
    defaults: str = TUNED
    """Source of the options that you leave out: tuned, the settings that a search has found for
    environment, algorithm and rule (`nprobot envs` lists them), if there are any; general, the same
    everywhere; parallel, few and large updates of ppo from 1024 environments; or a file that
    `nprobot tune` has written."""
    zoo_settings: str | None = None
    """Settings of stable-baselines3's zoo for options that are left out, instead of --defaults:
    ppo, sac or td3 of an installed rl_zoo3, or the path of such a YAML file."""
    output: Output = field(default_factory=Output)
    page: PageOptions = field(default_factory=PageOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Train, arguments, "train", HELP)
    start = None
    if options.start is not None and options.output.resume is None:
        start = start_of(options)
        # Parsed again over what the policy decides: options that were not given stay.
        stored = Train(run=start.configure(RunConfig()))
        options = parse(Train, arguments, "train", HELP, stored)
        start.check(options.run)
    elif options.start_std is not None or options.start is not None:
        raise ConfigError(
            "a resumed run keeps its start; leave --from away"
            if options.start is not None
            else "--start-std belongs to a policy to start from: name --from"
        )
    config, output = options.run, options.output
    settings = ""
    if output.resume is None:
        config = options.robot.apply(config)
        find_spec(config.env)
        if options.zoo_settings is None:
            config, settings = with_defaults(config, options.defaults)
        elif options.defaults != TUNED:
            raise ConfigError("--zoo-settings takes the place of --defaults; give one of them")
        else:
            config, settings = with_zoo_settings(config, options.zoo_settings)
        if output.out is not None:
            RunFolder.refuse_existing(output.out)
    elif output.out is not None:
        raise ConfigError("a resumed run stays in its own folder; leave --out away")
    elif options.robot != RobotOptions():
        raise ConfigError("a resumed run keeps its robot and task; leave those options away")
    elif options.defaults != TUNED:
        raise ConfigError("a resumed run keeps its settings; leave --defaults away")
    elif options.zoo_settings is not None:
        raise ConfigError("a resumed run keeps its settings; leave --zoo-settings away")
    else:
        # Parsed again over the run's own configuration: options that were not given stay.
        stored = Train(run=RunFolder.open(output.resume, trust=output.trust).config)
        config = parse(Train, arguments, "train", HELP, stored).run

    catalogue.rule_named(config.rule)
    if output.resume is None:
        check_environment(config)
    check_device(output.device)
    # Everything above answers at once; torch takes seconds to load.
    import torch

    from nprobot.training.training_run import resume, train

    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    require_device(output.device)
    silence_mujoco()
    console = Console()
    with Display(console) as shown, ExitStack() as stack:
        callbacks = []
        if options.page.web:
            callbacks.append(stack.enter_context(training_page(options.page, config, console)))
        if settings:
            shown.message(settings)
        command = shlex.join(("nprobot", "train", *arguments))
        if output.resume is None:
            result = train(
                config,
                output.out,
                reporter=shown,
                command=command,
                device=output.device or "cpu",
                callbacks=callbacks,
                start=start,
            )
        else:
            result = resume(
                output.resume,
                config,
                reporter=shown,
                device=output.device,
                command=command,
                callbacks=callbacks,
            )
    show(console, result)
    return exit_code() if result.interrupted else DONE


def start_of(options: Train) -> Start:
    """The policy that a run shall start from.

    Raises:
        NotFoundError: there is none.
        FileError: it cannot be used; a .zip of stable-baselines3 without --trust.
        ArchitectureError: it cannot learn further.
    """
    from nprobot.deploy.controller import load_policy
    from nprobot.training.from_policy import Start

    assert options.start is not None
    if options.start.endswith(".zip") and options.output.trust:
        policy: DeployablePolicy = load_zip(Path(options.start), options.run.algo)
    else:
        policy = load_policy(options.start)
    if not isinstance(policy, Policy):
        raise ArchitectureError("an ONNX file cannot learn further; give the policy folder")
    if policy.task is not None:
        id, kwargs = policy.task.id, policy.task.kwargs
        import_trusted(id, "the policy", options.output.trust, kwargs)
        check_kwargs(id, kwargs)
    return Start(policy, options.start, options.start_std)


def load_zip(file: Path, algo: str) -> Policy:
    """A model of stable-baselines3's that the user trusts."""
    import stable_baselines3

    from nprobot.policies.files.from_sb3 import load_trusted_sb3_zip

    if not file.is_file():
        raise NotFoundError(f"there is no file {file}")
    statistics = file.with_name("vecnormalize.pkl")
    kind = getattr(stable_baselines3, algo.upper(), None)
    if kind is None:
        raise ConfigError(f"stable-baselines3 has no {algo}; name the --algo of {file}")
    try:
        return load_trusted_sb3_zip(
            file,
            kind,
            vec_normalize=statistics if statistics.exists() else None,
            provenance={"algorithm": algo},
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise DamagedFileError(
            f"{file} cannot be read as a model of stable-baselines3's {algo.upper()}: {error}"
        ) from error


def check_environment(config: RunConfig) -> None:
    """Refuse an environment that cannot be made, or that no policy here can control."""
    silence_mujoco()
    env = make(config.env, config.env_kwargs, config.actuators, sensor=config.sensor)
    try:
        check_spaces(env, continuous=config.about.continuous)
    finally:
        env.close()


@contextmanager
def training_page(
    options: PageOptions, config: RunConfig, console: Console
) -> Iterator[BaseCallback]:
    """A callback that shows the run on a page."""
    from nprobot.view.live_learners import TrainingPage
    from nprobot.view.remote_page import require_packages

    require_packages()
    found = partial(announce_later, host=options.host, console=console)
    page = TrainingPage(config, options.host, options.port_or_default, found)
    try:
        yield page
    finally:
        page.close()


def with_defaults(config: RunConfig, defaults: str) -> tuple[RunConfig, str]:
    """The run with settings for the options that it leaves open, and a line about them."""
    settings = choose(defaults, config)
    if settings is None:
        return config, ""
    config, filled = fill(config, settings)
    shown = ", ".join(f"{name} {value}" for name, value in filled.items()) or "all given"
    kind = "Settings for many environments" if defaults == PARALLEL else "Tuned settings"
    return config, f"{kind}: {shown} (--defaults general does without)"


def with_zoo_settings(config: RunConfig, name: str) -> tuple[RunConfig, str]:
    """The same with the zoo's settings."""
    config, filled, entry = zoo_settings(name, config)
    shown = ", ".join(f"{option} {value}" for option, value in filled.items()) or "all given"
    return config, f"Settings of the zoo for {entry}: {shown}"


def show(console: Console, result: Result) -> None:
    """Print what came out of a run, where it is, and what to do with it."""
    from nprobot.training.training_run import title

    evaluation = result.evaluation
    console.print(
        facts(
            title(result.folder.config),
            {
                "return": "not evaluated"
                if evaluation is None
                else f"{evaluation} ({len(evaluation.returns)} deterministic episodes)",
                "steps": f"{result.steps:,}",
                "time": duration(result.seconds),
                "forward passes": f"{result.forward_passes:,}",
                "backward passes": f"{result.backward_passes:,}",
            },
        ),
        highlight=False,
    )
    path, trust = (
        result.folder.path,
        trust_flag(result.folder.config.env, result.folder.config.env_kwargs),
    )
    say(console, f"Run: {path}")
    if result.interrupted:
        say(console, f"Interrupted; continue: nprobot train --resume {quoted(path)}{trust}")
    else:
        film = quoted(path / "film.mp4")
        say(console, f"Next: nprobot evaluate {quoted(path)}{trust} --record {film}")
