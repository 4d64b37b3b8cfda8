"""The card of a policy: a page that says what it does, how well, and where it comes from.

Everything on it comes from the policy itself, so a card can be written anew at any time and cannot
disagree with the file beside it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from ...catalogue import environment_title, learner_title, rules
from .policy import BoxAction, Policy, recorded_rule

CARD_FILE = "README.md"
CURVE_FILE = "curve.png"
UNKNOWN = "not recorded"


def card(policy: Policy, *, reference: str = "FOLDER", curve: bool = True) -> str:
    """The card as Markdown.

    Args:
        policy: with its provenance; "evaluation" there holds the scores.
        reference: what `nprobot deploy` is given to run it, such as ``zoo:Reacher``.
        curve: whether a `curve.png` lies beside the card.
    """
    made = policy.provenance
    task = policy.task
    model = task is None and _fitted(made)
    env = made.get("task", "an unnamed task")
    if task:
        env = environment_title(task.id, task.kwargs)
    lines = [
        *_front_matter(policy),
        f"# {env} by {learner_title(recorded_rule(made) or UNKNOWN)}",
        "",
        f"A {'model' if model else 'controller'} for `{env}`, {_how(made)}.",
        *_description(made.get("description")),
        "It is deterministic: "
        + ("inputs in, outputs out." if model else "one observation in, one action out."),
        "",
        *([f"![{_curve_of(made)}](curve.png)", ""] if curve else []),
        "## Score",
        "",
        *(_errors(made.get("scores")) if model else _score(made.get("evaluation"))),
        "## What it is",
        "",
        *_table(_facts(policy)),
        "",
        *_command(made.get("command"), made.get("sessions")),
        "## How to run it",
        "",
        f"    nprobot deploy {reference}{' --serve' if model else ''}",
        "",
        "```python",
        *_snippet(reference),
        ("outputs = policy.predict(inputs)" if model else "action = policy.predict(observation)")
        + "   # numpy alone; nothing in the file is executed",
        "```",
        "",
        "It was trained and measured in simulation. On a real robot it has never run: keep the "
        "limits and the",
        "fault handling of `nprobot.deploy.Controller` between it and the motors.",
        "",
        f"Licence: {made.get('licence') or 'not stated'}.",
    ]
    return "\n".join(lines) + "\n"


def _front_matter(policy: Policy) -> list[str]:
    """What Hugging Face reads of a card, as YAML: the lines before its first heading.

    JSON is YAML, so every value is written as JSON.
    """
    made, task = policy.provenance, policy.task
    kind = "robotics" if _fitted(made) else "reinforcement-learning"
    rule = recorded_rule(made)
    tags = [
        kind,
        "nprobot",
        "node-perturbation",
        *([task.id] if task else []),
        *filter(None, [rule]),
    ]
    lines = ["---", "library_name: nprobot", f"tags: {json.dumps(tags)}"]
    if licence := made.get("licence"):
        lines.append(f"license: {json.dumps(str(licence).lower())}")
    evaluation = made.get("evaluation")
    if isinstance(evaluation, Mapping) and evaluation.get("returns"):
        mean, spread = _mean_and_spread(evaluation["returns"])
        name = str(evaluation["env"])
        result = {
            "task": {"type": kind, "name": kind},
            "dataset": {"name": name, "type": name},
            "metrics": [{"type": "mean_reward", "name": "mean_reward", "value": f"{mean}{spread}"}],
        }
        model = f"{made.get('algorithm', 'policy')} {rule or ''}".strip()
        entry = json.dumps({"name": model, "results": [result]}, ensure_ascii=False)
        lines += ["model-index:", f"- {entry}"]
    return [*lines, "---", ""]


def _mean_and_spread(returns: Any) -> tuple[str, str]:  # noqa: ANN401 - JSON
    """Mean and standard deviation of the returns, as text."""
    spread = f" ± {statistics.stdev(returns):.1f}" if len(returns) > 1 else ""
    return f"{statistics.fmean(returns):.1f}", spread


def network_name(policy: Policy) -> str:
    """The network in a few words, such as ``4-64-64-1, tanh``."""
    widths = [
        size
        for number, weight in enumerate(
            operation.arrays["weight"] for operation in policy.operations if operation.arrays
        )
        for size in (weight.shape[::-1] if number == 0 else weight.shape[:1])
    ]
    names = dict.fromkeys(
        operation.name
        for operation in policy.operations
        if operation.name not in ("linear", "flatten")
    )
    return "-".join(map(str, widths)) + "".join(f", {name}" for name in names)


def _how(made: Mapping[str, Any]) -> str:
    """With what, and for how long, a policy was trained."""
    algorithm = str(made.get("algorithm", "an algorithm that is not recorded")).upper()
    rule, steps, epochs = recorded_rule(made), made.get("steps"), made.get("epochs")
    fitted = _fitted(made)
    parts = [f"fitted to `{made.get('task')}`" if fitted else f"trained with {algorithm}"]
    if rule:
        samples, known = made.get("samples"), rules().get(rule)
        passes = f" (K = {samples} noisy passes)" if samples and known and known.perturbs else ""
        parts.append(f"by {learner_title(rule)}{passes}")
    if fitted and isinstance(epochs, int):
        parts.append(f"in {epochs:,} epochs")
    elif not fitted and isinstance(steps, int):
        parts.append(f"for {steps:,} environment steps")
    if made.get("backward_passes") == 0:
        parts.append("without a single backward pass")
    return " ".join(parts)


def _fitted(made: Mapping[str, Any]) -> bool:
    """Whether a policy comes from data, and not from an environment."""
    return made.get("algorithm") == "fit"


def _description(text: Any) -> list[str]:  # noqa: ANN401 - JSON
    return [text] if isinstance(text, str) else []


def _curve_of(made: Mapping[str, Any]) -> str:
    return f"{'Error over the epochs' if _fitted(made) else 'Return over the steps'} of training"


def _score(evaluation: Any) -> list[str]:  # noqa: ANN401 - JSON
    """The lines about how well it does."""
    if not isinstance(evaluation, Mapping) or not evaluation.get("returns"):
        return ["Not measured.", ""]
    returns, lengths = evaluation["returns"], evaluation["lengths"]
    mean, spread = _mean_and_spread(returns)
    return [
        f"Return **{mean}{spread}** (mean ± standard deviation over "
        f"{len(returns)} deterministic episodes of",
        f"`{evaluation['env']}`, seed {evaluation['seed']}; lowest {min(returns):.1f}, highest "
        f"{max(returns):.1f}; {statistics.fmean(lengths):.0f} steps an episode), "
        f"with MuJoCo {evaluation['versions'].get('mujoco') or UNKNOWN}.",
        "",
        *_tracking(evaluation.get("tracking")),
    ]


def _errors(scores: Any) -> list[str]:  # noqa: ANN401 - JSON
    """How well a model fits, by split; a mean over its targets."""
    if not isinstance(scores, Mapping) or not scores:
        return ["Not measured.", ""]
    titles = {"nmse": "mean squared error / variance", "accuracy": "accuracy"}
    names = [name for name in next(iter(scores.values())) if name in titles]
    head = f"| split | {' | '.join(titles[name] for name in names)} |"
    rows = [
        f"| {split} | {' | '.join(f'{values[name]:.4f}' for name in names)} |"
        for split, values in scores.items()
    ]
    return [head, f"|---{'|---' * len(names)}|", *rows, ""]


def _tracking(tracking: Any) -> list[str]:  # noqa: ANN401 - JSON
    """The lines about how well it follows a reference."""
    if not isinstance(tracking, Mapping):
        return []
    others = [
        f"{name} {tracking[key]:.4f} rad"
        for key, name in (("pd_alone", "PD control alone"), ("exact_model", "the exact model"))
        if key in tracking
    ]
    return [
        f"Tracking error **{tracking['position_error']:.4f} rad** (root mean square over joints, "
        "steps and the first",
        f"{len(tracking['episode_errors'])} of these episodes"
        + "".join(f"; {other}" for other in others)
        + ").",
        "",
    ]


def _facts(policy: Policy) -> dict[str, str]:
    made, task, action = policy.provenance, policy.task, policy.action
    rate = task.control_rate if task else None
    versions = made.get("versions") or {}
    facts = {
        "environment": f"`{task.id}`" if task else UNKNOWN,
        "control rate": f"{rate:g} Hz of simulated time" if rate else UNKNOWN,
        "observation": f"{policy.observation_shape}, "
        + ("normalised inside the policy" if policy.normaliser else "as it is"),
        "action": f"{action.low.shape}, from {_numbers(action.low)} to {_numbers(action.high)}"
        if isinstance(action, BoxAction)
        else f"one of {' × '.join(map(str, action.choices))}",
        "network": network_name(policy),
        **{n: ", ".join(made[n]) for n in ("inputs", "targets") if isinstance(made.get(n), list)},
        "seed": str(made.get("seed", UNKNOWN)),
        "forward passes in training": _count(made.get("forward_passes")),
        "backward passes in training": _count(made.get("backward_passes")),
        "versions": ", ".join(f"{name} {v}" for name, v in versions.items() if v) or UNKNOWN,
    }
    if task and task.kwargs:
        facts["environment"] += f" with `{json.dumps(dict(task.kwargs))}`"
    if behind := made.get("actuators"):
        facts["environment"] += f", behind the noisy actuators `{behind}`"
    return facts


def _table(facts: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]


def _command(command: Any, sessions: Any) -> list[str]:  # noqa: ANN401 - JSON
    """What it was trained by; for a resumed run every session, with what it began and ended at."""
    if not isinstance(sessions, list):
        return ["Trained by", "", f"    {command}", ""] if isinstance(command, str) else []
    lines = []
    for session in sessions:
        begun = next((v for k, v in session.items() if k.startswith("from_")), None)
        ended = next((v for k, v in session.items() if k.startswith("to_")), "where it was cut off")
        unit = next((k[5:] for k in session if k.startswith("from_")), "step")
        what = session.get("command") or "a session from Python"
        lines.append(f"    {what}    # {unit} {begun} to {ended}")
    return [f"Trained in {len(sessions)} sessions", "", *lines, ""]


def _snippet(reference: str) -> list[str]:
    """The lines of Python that load the policy."""
    if reference.startswith("zoo:"):
        name = reference.removeprefix("zoo:")
        return ["from nprobot.policies import zoo", "", f'policy = zoo.load_policy("{name}")']
    return ["import nprobot.policies", "", f'policy = nprobot.policies.load("{reference}")']


def _count(value: Any) -> str:  # noqa: ANN401 - JSON
    return f"{value:,}" if isinstance(value, int) else UNKNOWN


def _numbers(values: Any) -> str:  # noqa: ANN401 - an array
    """A bound: one number if it is the same everywhere."""
    flat = [f"{float(value):g}" for value in values.ravel()]
    return flat[0] if len(set(flat)) == 1 else f"({', '.join(flat)})"
