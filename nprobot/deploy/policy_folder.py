"""From a run or a model to a policy folder to give away: policy, scores, card, curve, ONNX."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nprobot import catalogue
from nprobot.catalogue import import_trusted
from nprobot.envs import ARM_TRACK
from nprobot.errors import ArchitectureError, DeployError, ExistsError, UnknownNameError
from nprobot.policies.files import policy_file
from nprobot.policies.files.card import CARD_FILE, CURVE_FILE, card
from nprobot.policies.files.onnx_file import check_agreement, save_onnx
from nprobot.policies.files.policy import ControlTask, Policy
from nprobot.regression.fit_folder import FitFolder, draw_errors
from nprobot.runs.atomic_files import free_name, new_folder, quoted
from nprobot.runs.folder import CONFIG_FILE, find_policy
from nprobot.runs.versions import versions
from nprobot.training import environments
from nprobot.training.environments import find_spec
from nprobot.training.evaluation import Evaluation, check_fit, evaluate, task_of
from nprobot.training.run_folder import RunFolder

from .controller import load_policy

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from nprobot.regression.tracking import Tracking

EPISODES = 100
DEFAULT_FOLDER = "policy"
"""Where in a run its export goes."""
TRACKING_EPISODES = 20
"""Episodes, at most, on which a controller of the arm is compared with PD control alone."""

Home = RunFolder | FitFolder
"""Where a policy was made."""


@dataclass(frozen=True)
class ExportedPolicy:
    """An exported policy.

    Attributes:
        folder: the policy folder.
        policy: with scores and licence in its provenance.
        evaluation: the scores; None if it was not measured.
        onnx: largest difference of an ONNX action to numpy's; None without an ONNX file.
        torch: the same of torch's actions to numpy's.
    """

    folder: Path
    policy: Policy
    evaluation: Evaluation | None
    onnx: float | None
    torch: float | None


def export_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    onnx: bool = False,
    episodes: int = EPISODES,
    seed: int = 0,
    licence: str | None = None,
    trust: bool = False,
    reference: str = "FOLDER",
) -> ExportedPolicy:
    """Make a policy folder from a run or a fit: policy file, card with curve and scores.

    The folder appears whole or not at all.

    Args:
        run: the folder of a run or fit (its newest checkpoint counts), or one of its checkpoints.
        out: the folder to make; by default ``policy`` in the run.
        onnx: also write `policy.onnx`, checked against numpy and torch to 1e-5.
        episodes: deterministic episodes that measure it; 0 for none.
        seed: the seed of those episodes.
        licence: under which the policy may be used, such as "MIT".
        trust: whether the module that its environment is in may be imported.
        reference: what the card tells people to give to `nprobot deploy`.

    Raises:
        ExistsError: `out` is there already.
        FileError: the run has no policy, or the forms of the policy disagree.
        ConfigError: its environment is in a module that has not been imported.
        DeployError: `episodes` is negative.
    """
    if episodes < 0:
        raise DeployError(f"episodes must be 0 or more, got {episodes}")
    run = Path(run)
    source = find_policy(run)
    policy = policy_file.load(source)
    home = _run_of(run, source, trust)
    if policy.task is not None:
        import_trusted(policy.task.id, "the policy", trust, policy.task.kwargs)
    target = Path(out) if out is not None else (home.path if home else source) / DEFAULT_FOLDER
    if target.exists():
        raise ExistsError(
            f"{target} is there already; choose another --out, such as {quoted(free_name(target))}"
        )
    evaluation = None
    if policy.task is not None and episodes:
        evaluation = evaluate(policy, episodes=episodes, seed=seed)
    tracking = None
    if evaluation is not None and evaluation.env == ARM_TRACK:
        tracking = _tracking(policy, evaluation)
    made = _provenance(policy.provenance, home, evaluation, tracking, licence)
    policy = replace(policy, provenance=made)
    return _write(policy, target, home, evaluation, onnx=onnx, reference=reference)


def export(
    model: BaseAlgorithm,
    folder: str | Path,
    *,
    env: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    onnx: bool = False,
    episodes: int = EPISODES,
    seed: int = 0,
    licence: str | None = None,
) -> ExportedPolicy:
    """Make a policy folder from a model in Python: policy file, scores, card.

    The policy carries the observation normaliser of the model's environment (`VecNormalize`), the
    bounds of its actions, and which environment it is. `nprobot deploy FOLDER` runs it. The folder
    appears whole or not at all.

    Args:
        model: `nprobot.PPO`, `NRL`, `SAC`, `TD3`, or stable-baselines3's.
        folder: the folder to make.
        env: gymnasium id of the environment; by default what the model's own says.
        env_kwargs: its arguments; by default those of the model's own.
        onnx: also write `policy.onnx`, checked against numpy and torch to 1e-5.
        episodes: deterministic episodes that measure it; 0 for none, and none without an id.
        seed: the seed of those episodes.
        licence: under which the policy may be used, such as "MIT".

    Raises:
        ExistsError: `folder` is there already.
        ArchitectureError: the model has something that a policy file cannot describe.
        EnvironmentUnavailableError: the environment cannot be made, or is not the model's: a
            wrapper around that, say, changes its observations.
        DeployError: `episodes` is negative.
    """
    from nprobot.policies.files.from_sb3 import export_policy

    if episodes < 0:
        raise DeployError(f"episodes must be 0 or more, got {episodes}")
    target = Path(folder)
    if target.exists():
        raise ExistsError(f"{target} is there already; {quoted(free_name(target))} is free")
    policy = export_policy(model, _task(model, env, env_kwargs), _made_by(model))
    evaluation = None
    if policy.task is not None:
        made = environments.make(policy.task.id, policy.task.kwargs)
        try:
            check_fit(policy, made, policy.task.id)
            task = replace(policy.task, control_rate=environments.control_rate(made))
        finally:
            made.close()
        policy = replace(policy, task=task)
        evaluation = evaluate(policy, episodes=episodes, seed=seed) if episodes else None
    provenance = _provenance(policy.provenance, None, evaluation, None, licence)
    policy = replace(policy, provenance=provenance)
    return _write(policy, target, None, evaluation, onnx=onnx, reference=target.name)


def from_policy(
    policy: str | Path | Policy,
    env: VecEnv | str | None = None,
    *,
    algo: str | None = None,
    **arguments: Any,
) -> BaseAlgorithm:
    """A model that acts as a policy folder says, and learns further: the way back from `export`.

        model = nprobot.from_policy("zoo:Reacher", rule="np+feedback")
        model.learn(100_000)

    The critic begins anew, as a policy file holds none: PPO's ``critic_warmup=20_000`` lets it
    learn first. PPO explores as much as the policy's file says, or a tenth of half the range of the
    actions.

    Args:
        policy: ``zoo:NAME``, the folder of a run or policy, or a policy that was loaded.
        env: vectorised environments, or an id; by default the environment of the training. The
            statistics of the policy's normaliser are put into its `VecNormalize`, which is made if
            there is none.
        algo: name of the algorithm; by default the one that made the policy, or PPO.
        arguments: of the algorithm's class, such as ``rule="danp"``, ``learning_rate=1e-4``.

    Returns:
        An `nprobot.PPO`, `SAC`, `TD3` or `NRL`.

    Raises:
        NotFoundError: there is no such policy.
        ArchitectureError: no algorithm makes its layers, or not this one; or it is an ONNX file.
        ConfigError: there is no environment.
        UnknownNameError: there is no such algorithm.
    """
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from nprobot.training.from_policy import (
        algorithm_of,
        network_arguments,
        write_policy,
        write_spread,
    )

    loaded = policy if isinstance(policy, Policy) else load_policy(policy)
    if not isinstance(loaded, Policy):
        raise ArchitectureError("an ONNX file cannot learn further; give the policy folder")
    network = network_arguments(loaded)
    name = algo or algorithm_of(loaded)
    if name not in catalogue.ALGORITHMS:
        raise UnknownNameError("algorithm", name, catalogue.ALGORITHMS)
    if env is None or isinstance(env, str):
        id, kwargs = task_of(loaded, env, None)
        env = make_vec_env(lambda: environments.make(id, kwargs))
    if loaded.normaliser is not None and not isinstance(env, VecNormalize):
        env = VecNormalize(env, norm_reward=False)
    arguments["policy_kwargs"] = network | dict(arguments.get("policy_kwargs") or {})
    model: BaseAlgorithm = catalogue.ALGORITHMS[name].load()("MlpPolicy", env, **arguments)
    write_policy(model, loaded)
    write_spread(model, loaded)
    return model


def _task(
    model: BaseAlgorithm, env: str | None, kwargs: Mapping[str, Any] | None
) -> ControlTask | None:
    """The environment of a model, as far as it is known."""
    if env is not None:
        return ControlTask(env, kwargs or {})
    spec = model.env.get_attr("spec")[0] if model.env is not None else None
    if spec is None:
        return None
    given = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    return ControlTask(spec.id, given if kwargs is None else kwargs)


def _made_by(model: BaseAlgorithm) -> dict[str, Any]:
    """How a model was trained, as far as it knows."""
    rule = getattr(model, "rule", None)
    made = {
        "algorithm": type(model).__name__.lower(),
        "rule": "bp" if rule is None else rule.name,
        "seed": model.seed,
        "steps": model.num_timesteps,
        "versions": versions(),
    }
    if rule is not None:
        made |= {
            "samples": rule.samples,
            "forward_passes": rule.forward_passes,
            "backward_passes": rule.backward_passes,
        }
    return made


def _write(
    policy: Policy,
    target: Path,
    home: Home | None,
    evaluation: Evaluation | None,
    *,
    onnx: bool,
    reference: str,
) -> ExportedPolicy:
    """Write a policy folder, and rename it into place."""
    with new_folder(target) as writing:
        policy_file.save(policy, writing)
        differences = _check_onnx(policy, writing) if onnx else (None, None)
        curve = _curve(home, writing)
        (writing / CARD_FILE).write_text(card(policy, reference=reference, curve=curve), "utf-8")
    return ExportedPolicy(target, policy, evaluation, *differences)


def _run_of(given: Path, source: Path, trust: bool) -> Home | None:
    """The run or fit that a policy belongs to: as given, or the one around a checkpoint."""
    path = given if given != source else Path(os.path.abspath(source)).parent.parent
    file = path / CONFIG_FILE
    if not file.exists():
        return None
    try:
        is_fit = json.loads(file.read_text(encoding="utf-8"))["format"] == FitFolder.form
    except (ValueError, KeyError, TypeError):
        is_fit = False  # `RunFolder.open` says what is wrong with it
    return (FitFolder if is_fit else RunFolder).open(path, trust=trust)


def _provenance(
    made: Mapping[str, Any],
    home: Home | None,
    evaluation: Evaluation | None,
    tracking: Mapping[str, Any] | None,
    licence: str | None,
) -> dict[str, Any]:
    """What is known of a policy, with what the export adds."""
    provenance = {**made, "licence": licence}
    if home is not None:
        sessions = home.history()
        for session in sessions:
            session["command"] = session.get("command") and without_paths(session["command"])
        provenance["command"] = sessions[0]["command"] if sessions else None
        if len(sessions) > 1:
            provenance["sessions"] = sessions
    if isinstance(home, FitFolder):
        provenance["epochs"] = home.config.epochs
        provenance["scores"] = _overall(home)
    if evaluation is not None:
        provenance["evaluation"] = {
            "env": evaluation.env,
            "seed": evaluation.seed,
            "returns": list(evaluation.returns),
            "lengths": list(evaluation.lengths),
            "versions": versions(),
        }
        if tracking is not None:
            provenance["evaluation"]["tracking"] = tracking
    return provenance


def _overall(fit: FitFolder) -> dict[str, dict[str, float]]:
    """The errors of a fit by split, all targets together; empty before its end."""
    if not fit.scores.exists():
        return {}
    with fit.scores.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("target", "mean") == "mean"]
    names = ("nmse", "accuracy", "cross_entropy")
    return {row["split"]: {n: float(row[n]) for n in names if n in row} for row in rows}


def _tracking(policy: Policy, evaluation: Evaluation) -> dict[str, Any]:
    """How well a controller of the arm follows the first episodes of its evaluation, rad RMS."""
    from nprobot.regression.tracking import track

    kwargs = policy.task.kwargs if policy.task else {}
    episodes = min(len(evaluation.returns), TRACKING_EPISODES)

    def follow(controller: Policy | str | None) -> Tracking:
        return track(controller, episodes=episodes, seed=evaluation.seed, env_kwargs=kwargs)

    own = follow(policy)
    result = {"position_error": own.position_error, "episode_errors": list(own.episode_errors)}
    if kwargs.get("control", "feedforward") == "feedforward":  # else there is no PD control
        result["pd_alone"] = follow(None).position_error
        result["exact_model"] = follow("exact").position_error
    return result


def without_paths(command: str) -> str:
    """A training command without the folder it wrote to, which tells of the author's disk."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in ("--out", "--resume"):
            next(words, None)
            kept += [word, "FOLDER"] if word == "--resume" else []
        elif not word.startswith(("--out=", "--resume=")):
            kept.append(word)
    return shlex.join(kept)


def _check_onnx(policy: Policy, folder: Path) -> tuple[float, float]:
    """Write `policy.onnx`; its difference and that of torch to numpy."""
    difference = save_onnx(policy, folder)
    from nprobot.policies.files.torch_policy import TorchPolicy

    return difference, check_agreement(policy, TorchPolicy(policy).predict, what="torch")


def _curve(home: Home | None, folder: Path) -> bool:
    """Copy the run's learning curve, drawing it if the run was cut off before it did."""
    if home is None:
        return False
    if not home.curve.exists():
        title = f"{home.config.learner}, seed {home.config.seed}"
        if isinstance(home, FitFolder):
            draw_errors(home.curve, home.read_progress(), title, loss=home.config.loss)
        else:
            from nprobot.runs.curve import draw_curve

            solved_at = find_spec(home.config.env).reward_threshold
            draw_curve(home.progress, home.curve, f"{home.config.env}: {title}", solved_at)
    shutil.copyfile(home.curve, folder / CURVE_FILE)
    return True
