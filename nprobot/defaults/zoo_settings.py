"""Settings of stable-baselines3's zoo (rl_zoo3), read from its YAML files as they are.

What a file leaves out is what stable-baselines3 would take.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import yaml

from nprobot.catalogue import Activation
from nprobot.errors import ConfigError, MissingPackageError, UnknownNameError
from nprobot.training.run_config import RunConfig

from .settings import INSTEAD

ALGORITHMS = ("ppo", "sac", "td3")
_SB3 = {"envs": 1, "normalise": "off"}
_SB3_PPO = {"n_steps": 2048}
"""What differs from the defaults here: with several environments each takes as many steps."""
_SAME = {
    *("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "vf_coef"),
    *("max_grad_norm", "target_kl", "learning_starts", "buffer_size", "train_freq"),
    *("gradient_steps", "tau", "target_update_interval", "use_sde", "sde_sample_freq"),
    *("policy_delay", "target_policy_noise", "target_noise_clip"),
}
_RENAMED = {"n_timesteps": "steps", "n_envs": "envs"}
_ACTIVATIONS: dict[str, Activation] = {name.replace("_", ""): name for name in get_args(Activation)}


def zoo_settings(name: str, config: RunConfig) -> tuple[RunConfig, dict[str, Any], str]:
    """A run with the zoo's settings where it leaves an option open.

    Args:
        name: "ppo", "sac" or "td3" for the file of an installed rl_zoo3, or a YAML file's path.
        config: the run. Its environment's entry is used, else that of another version of it, the
            newest, else the file's `default`.

    Returns:
        The configuration; the options that were filled in; the entry's name.

    Raises:
        MissingPackageError: rl_zoo3 is not installed.
        ConfigError: the file cannot be read, or a key of it has no counterpart here.
        UnknownNameError: nothing in the file is for the environment.
    """
    if name in ALGORITHMS:
        if config.algo not in (name, RunConfig().algo):
            raise ConfigError(f"the settings are of {name}, and the algorithm is {config.algo}")
        config = config.replace(algo=name)
        path = _installed(name)
    else:
        path = Path(name)
    content = _content(path)
    entry = _entry(content, config.env, path)
    settings: dict[str, Any] = dict(_SB3)
    if config.algo == "ppo":
        settings |= _SB3_PPO
    settings |= _options(content[entry] or {}, f"{path} [{entry}]")
    given = config.flat()
    filled = {
        option: value
        for option, value in settings.items()
        if given[option] is None and given.get(INSTEAD.get(option, "")) is None
    }
    return config.with_options(filled), filled, entry


def _installed(algorithm: str) -> Path:
    spec = find_spec("rl_zoo3")
    for place in spec.submodule_search_locations or () if spec else ():
        for path in (Path(place) / "hyperparams", Path(place).parent / "hyperparams"):
            if (file := path / f"{algorithm}.yml").exists():
                return file
    raise MissingPackageError(
        f"the settings of {algorithm!r} are in rl_zoo3, which is not installed; `pip install "
        f"rl_zoo3`, or give the path of its hyperparams/{algorithm}.yml"
    )


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a readable YAML file: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(own, dict | None) for own in content.values()
    ):
        raise ConfigError(f"{path} holds no settings: it must have a table for each environment")
    return content


def _entry(content: Mapping[str, Any], env: str, path: Path) -> str:
    plain = env.rpartition(":")[2]
    if plain in content:
        return plain
    base = re.sub(r"-v\d+$", "", plain)
    others = [name for name in content if re.sub(r"-v\d+$", "", str(name)) == base]
    if others:
        return max(others, key=lambda name: int(name.rpartition("-v")[2] or 0))
    if "default" in content:
        return "default"
    raise UnknownNameError("environment", plain, map(str, content), f"{path} has none for it.")


def _options(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of a run, from an entry of the file."""
    entry = dict(entry)
    options: dict[str, Any] = {}
    if (policy := entry.pop("policy", "MlpPolicy")) != "MlpPolicy":
        raise ConfigError(
            f"{where}: policy must be MlpPolicy, as nprobot train makes no other, not {policy}"
        )
    noise = entry.pop("noise_type", None), entry.pop("noise_std", None)
    if noise != (None, None):
        if noise[0] != "normal" or noise[1] is None:
            raise ConfigError(f"{where}: noise_type must be normal, with a noise_std, got {noise}")
        options["exploration_noise"] = float(noise[1])
    for key, value in entry.items():
        if value is None:
            continue
        if key in _READERS:
            options |= _READERS[key](value, f"{where}: {key}")
        elif key in _SAME or key in _RENAMED:
            options[_RENAMED.get(key, key)] = _number(value, f"{where}: {key}")
        else:
            known = sorted({*_SAME, *_RENAMED, *_READERS, "policy", "noise_type", "noise_std"})
            raise UnknownNameError("setting", key, known, f"{where} has it.")
    return options


def _number(value: Any, where: str) -> Any:  # noqa: ANN401 - as YAML has it
    """A number or a flag; whole numbers may be written as floats (1e6)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{where} must be a number, got {value!r}") from None
    if not isinstance(value, bool | int | float):
        raise ConfigError(f"{where} must be a number, got {value!r}")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _learning_rate(value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    shape = "constant"
    if isinstance(value, str) and value.startswith("lin_"):
        shape, value = "linear", value.removeprefix("lin_")
    return {"learning_rate": float(_number(value, where)), "lr_schedule": shape}


def _entropy(value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, str) or not value.startswith("auto"):
        return {"ent_coef": float(_number(value, where))}
    start = value.removeprefix("auto").removeprefix("_")
    return {"ent_coef_start": float(_number(start, where)) if start else 1.0}


def _normalise(value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    told = _python(value, where) if isinstance(value, str) else value
    if isinstance(told, bool):
        return {"normalise": "on" if told else "off"}
    if not isinstance(told, dict) or not {*told} <= {"norm_obs", "norm_reward", "gamma"}:
        raise ConfigError(
            f"{where} must be a flag, or tell norm_obs and norm_reward, got {value!r}"
        )
    both = told.get("norm_obs", True), told.get("norm_reward", True)
    names = {(True, True): "on", (True, False): "observations", (False, True): "rewards"}
    return {"normalise": names.get(both, "off")}


def _policy(value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    told = _python(value, where) if isinstance(value, str) else value
    if not isinstance(told, dict):
        raise ConfigError(
            f"{where} must be arguments, as in dict(net_arch=[64, 64]), got {value!r}"
        )
    options: dict[str, Any] = {}
    for key, own in told.items():
        if key == "net_arch":
            sizes = [*own.values()] if isinstance(own, dict) else [own]
            if any(size != sizes[0] for size in sizes):
                raise ConfigError(
                    f"{where}: net_arch has {own}; nprobot train makes actor and critic alike"
                )
            options["hidden"] = tuple(sizes[0])
        elif key == "activation_fn":
            name = str(own).rpartition(".")[2].lower()
            if name not in _ACTIVATIONS:
                raise UnknownNameError("activation function", own, _ACTIVATIONS)
            options["activation"] = _ACTIVATIONS[name]
        elif key == "log_std_init":
            options[key] = float(own)
        elif key == "ortho_init":
            options[key] = bool(own)
        else:
            known = ["net_arch", "activation_fn", "log_std_init", "ortho_init"]
            raise UnknownNameError("argument of a policy", key, known, f"{where} has it.")
    return options


_READERS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "learning_rate": _learning_rate,
    "ent_coef": _entropy,
    "normalize": _normalise,
    "policy_kwargs": _policy,
}


def _python(text: str, where: str) -> Any:  # noqa: ANN401 - whatever is written there
    """The value of a Python expression of constants, lists, dicts and names; nothing is run."""

    def value(node: ast.expr) -> Any:  # noqa: ANN401
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return [value(one) for one in node.elts]
        if isinstance(node, ast.Dict) and None not in node.keys:
            keys = [value(key) for key in node.keys if key is not None]
            return dict(zip(keys, map(value, node.values), strict=True))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Name | ast.Attribute):
            return ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
            return {str(own.arg): value(own.value) for own in node.keywords}
        raise ConfigError(f"{where} has {ast.unparse(node)}, which is neither a value nor dict(…)")

    try:
        tree = ast.parse(" ".join(text.split()), mode="eval")
        return value(tree.body)
    except (SyntaxError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where} is no Python expression: {error}") from error
