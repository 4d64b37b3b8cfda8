"""What is wrong with a chip, each thing a frozen dataclass: noise, mismatch, drift, converters.

Pre-activations are in the units in which the network computes. One *evaluation* is one row of a
batch: a chip computes the rows one after the other, in order, and its slow noise carries over from
row to row and from batch to batch.

A model knows the formula. What is particular to one layer of one device (noise generators, true
weights, memory) is in a `Site`, which no learner may reach: it is hidden with the `Crossbar` of the
layer, see `nprobot.policies.chip.crossbar`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from torch import Tensor
from typing_extensions import override

from ...errors import ConfigError, UnknownNameError
from ...options import NotNegative, Options, Positive, Share

Multiply = Callable[[Tensor, Tensor], Tensor]
"""From a layer's inputs and weights to its pre-activations, without bias."""


class Site:
    """One layer of one device, as one model sees it: its randomness and its memory.

    Args:
        device_seed: decides what is fixed for the device.
        noise_seed: decides what changes from evaluation to evaluation.

    Attributes:
        memory: what the model remembers from one evaluation to the next.
    """

    def __init__(self, device_seed: int, noise_seed: int) -> None:
        self.seeds = device_seed, noise_seed
        self.memory: Tensor | None = None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._constant: Tensor | None = None

    def fixed(self, like: Tensor) -> Tensor:
        """Standard normal numbers that are the same whenever they are asked for."""
        # On the CPU: a device does not change when the emulation moves to another processor.
        generator = torch.Generator().manual_seed(self.seeds[0])
        return torch.randn(like.shape, generator=generator).to(like)

    def constant(self, like: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """What `make` makes of `fixed`, computed once."""
        if self._constant is None or self._constant.device != like.device:
            self._constant = make(self.fixed(like))
        return self._constant.to(like)

    def fresh(self, like: Tensor) -> Tensor:
        """Standard normal numbers, new at every call."""
        return torch.empty_like(like).normal_(generator=self._generator(like.device))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), new at every call."""
        return torch.empty_like(like).uniform_(generator=self._generator(like.device))

    def save(self) -> dict[str, Any]:
        """What changes from evaluation to evaluation."""
        generators = {str(d): g.get_state().numpy() for d, g in self._generators.items()}
        memory = None if self.memory is None else self.memory.detach().cpu().numpy()
        return {"generators": generators, "memory": memory}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        memory = saved["memory"]
        self.memory = None if memory is None else torch.from_numpy(memory)
        for name, state in saved["generators"].items():
            self._generator(torch.device(name)).set_state(torch.from_numpy(state))

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seeds[1])
        return self._generators[device]


def about(meaning: str, unit: str) -> Meta:
    """What a parameter is, and its unit: "a" for that of a pre-activation, "1" for none."""
    return Meta(description=meaning, extra={"unit": unit})


@dataclass(frozen=True)
class ChipModel(Options):
    """One thing that a chip does to what a network should compute; they apply in order.

    Raises:
        ConfigError: a parameter is no number, or out of range.
    """

    formula: ClassVar[str] = ""
    """What it computes, for the documentation: a is the pre-activation that reaches the model, ξ a
    standard normal number for each node and evaluation, w a weight, t the evaluations so far."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ConfigError as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from None

    def inputs(self, site: Site, x: Tensor) -> Tensor:
        """What is in the place of the inputs of the weights."""
        return x

    def weight(self, site: Site, weight: Tensor, evaluations: int) -> Tensor:
        """What is in the place of a weight.

        Args:
            site: the layer.
            weight: as written, or as earlier models left it.
            evaluations: how many the layer has done before.
        """
        return weight

    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """What is in the place of pre-activations.

        Args:
            site: the layer.
            a: shape (rows, *units), rows in the order in which they are computed.
            x: inputs of the weights.
            weight: what is in the weights' place.
            multiply: how the layer multiplies them.
        """
        return a

    @override
    def to_dict(self) -> dict[str, Any]:
        """All parameters, and the model's name under "model"; fit for JSON."""
        return {"model": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class GaussianNoise(ChipModel):
    """White noise on every pre-activation."""

    formula: ClassVar[str] = "a + std·ξ"

    std: Annotated[NotNegative, about("standard deviation", "a")] = 0.06

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        return torch.add(a, site.fresh(a), alpha=self.std)


@dataclass(frozen=True)
class MultiplicativeNoise(ChipModel):
    """White noise that grows with the pre-activation."""

    formula: ClassVar[str] = "a·(1 + std·ξ)"

    std: Annotated[
        NotNegative, about("standard deviation, as a share of the pre-activation", "1")
    ] = 0.1

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        return a + self.std * a * site.fresh(a)


@dataclass(frozen=True)
class ReadNoise(ChipModel):
    """Every weight is a little different each time it is used (cycle-to-cycle variation)."""

    formula: ClassVar[str] = "Σ w·(1 + std·ξ_w)·x + b, ξ_w drawn for each weight and evaluation"

    std: Annotated[NotNegative, about("standard deviation, as a share of the weight", "1")] = 0.05

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        # A sum of independent normal numbers is one normal number with the sum of the variances.
        return a + self.std * multiply(x.square(), weight.square()).sqrt() * site.fresh(a)


@dataclass(frozen=True)
class OrnsteinUhlenbeckNodeNoise(ChipModel):
    """Noise that stays similar from one evaluation to the next."""

    formula: ClassVar[str] = "s ← ρ·s + std·√(1 − ρ²)·ξ with ρ = exp(−1/correlation); a + s"
    CHUNK: ClassVar[int] = 64
    """Rows that are computed as one matrix product."""

    std: Annotated[NotNegative, about("standard deviation of s at any time", "a")] = 0.06
    correlation: Annotated[
        NotNegative, about("correlation time; 0 is white noise", "evaluations")
    ] = 20.0

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        decay = math.exp(-1.0 / self.correlation) if self.correlation > 0 else 0.0
        state = site.memory
        if state is None or state.shape != a.shape[1:]:
            state = site.fresh(a[:1]).squeeze(0)
        innovation = math.sqrt(1 - decay**2) * site.fresh(a)
        noise = []
        for part in torch.split(innovation, self.CHUNK):
            noise.append(_advance(state, part, decay))
            state = noise[-1][-1]
        site.memory = state
        return torch.add(a, torch.cat(noise), alpha=self.std)


def _advance(state: Tensor, innovation: Tensor, decay: float) -> Tensor:
    """``s_t = ρ s_{t−1} + innovation_t`` for some rows, as one matrix product."""
    lag = torch.arange(len(innovation)).to(innovation)
    powers = (decay ** (lag[:, None] - lag).clamp(min=0.0)).tril()
    states = (powers @ innovation.flatten(1)).view_as(innovation)
    first = (decay ** (lag + 1)).view(-1, *[1] * (states.dim() - 1))
    return states + first * state.to(innovation)


@dataclass(frozen=True)
class TelegraphNodeNoise(ChipModel):
    """Noise that jumps between two levels, as a magnetic tunnel junction's does."""

    formula: ClassVar[str] = "s = ±1 turns over with probability `switching`; a + amplitude·s"

    amplitude: Annotated[NotNegative, about("half the distance of the levels", "a")] = 0.00593
    switching: Annotated[Share, about("chance of a jump from one evaluation to the next", "1")] = (
        0.0809
    )

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        state = site.memory
        if state is None or state.shape != a.shape[1:]:
            state = torch.where(site.uniform(a[0]) < 0.5, -1.0, 1.0)
        jumps = torch.where(site.uniform(a) < self.switching, -1.0, 1.0).to(a)
        level = jumps.cumprod(0) * state.to(a)
        site.memory = level[-1]
        return torch.add(a, level, alpha=self.amplitude)


@dataclass(frozen=True)
class Offset(ChipModel):
    """A constant error of every node, the same for all or different from node to node."""

    formula: ClassVar[str] = "a + value + spread·ξ_node, ξ_node drawn once for a device"

    value: Annotated[float, about("offset of all nodes", "a")] = 0.0421
    spread: Annotated[NotNegative, about("standard deviation over nodes", "a")] = 0.0

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        if self.spread:
            a = a + self.spread * site.fixed(a[0])
        return a + self.value


@dataclass(frozen=True)
class WeightMismatch(ChipModel):
    """Weights that are not what was written: every device is a little different, for life."""

    formula: ClassVar[str] = "w·max(0, 1 + std·ξ_w), ξ_w drawn once for a device"

    std: Annotated[NotNegative, about("standard deviation, as a share of the weight", "1")] = 0.3

    @override
    def weight(self, site: Site, weight: Tensor, evaluations: int) -> Tensor:
        return weight * site.constant(weight, lambda normal: (1 + self.std * normal).clamp(min=0))


@dataclass(frozen=True)
class ConductanceDrift(ChipModel):
    """Weights that fade with time by a power law, each at its own pace, as phase-change cells."""

    formula: ClassVar[str] = "w·(1 + t/onset)^−n with n = max(0, exponent + spread·ξ_w)"

    exponent: Annotated[NotNegative, about("mean exponent n", "1")] = 0.05
    spread: Annotated[NotNegative, about("standard deviation of n over the weights", "1")] = 0.02
    onset: Annotated[float, Meta(ge=1), about("time after which it shows", "evaluations")] = (
        10_000.0
    )

    @override
    def weight(self, site: Site, weight: Tensor, evaluations: int) -> Tensor:
        exponents = site.constant(
            weight, lambda normal: (self.exponent + self.spread * normal).clamp(min=0)
        )
        return weight * torch.exp(-math.log1p(evaluations / self.onset) * exponents)


@dataclass(frozen=True)
class DeadNodes(ChipModel):
    """Nodes that are stuck at 0, from some time on: of every layer the same share, to the node."""

    formula: ClassVar[str] = "0 in round(share·n) of a layer's n nodes from t = onset on, else a"

    share: Annotated[Share, about("share of the nodes", "1")] = 0.1
    onset: Annotated[NotNegative, about("time at which they die", "evaluations")] = 0.0

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        before = 0.0 if site.memory is None else float(site.memory)
        site.memory = torch.tensor(before + len(a))
        alive = site.constant(a[0], self._alive)
        late = before + torch.arange(len(a)).to(a) >= self.onset
        return torch.where(late.view(-1, *[1] * (a.dim() - 1)), a * alive, a)

    def _alive(self, normal: Tensor) -> Tensor:
        dead = round(self.share * normal.numel())
        alive = torch.ones_like(normal)
        alive.view(-1)[normal.flatten().argsort()[:dead]] = 0.0
        return alive


@dataclass(frozen=True)
class Converter(ChipModel):
    """The converter that reads a pre-activation: it saturates, and its levels are few."""

    formula: ClassVar[str] = "a cut off at ±bound, rounded to the nearest of `levels` values"

    bound: Annotated[float, Meta(ge=1e-9), about("largest value that is read", "a")] = 12.0
    levels: Annotated[int, Meta(ge=0), about("number of values; 0 for no rounding", "1")] = 510

    @override
    def nodes(self, site: Site, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        a = a.clamp(-self.bound, self.bound)
        if self.levels < 2:
            return a
        step = 2 * self.bound / (self.levels - 1)
        return torch.round((a + self.bound) / step) * step - self.bound


@dataclass(frozen=True)
class InputConverter(ChipModel):
    """The converter that feeds an input to a row: its levels are few."""

    formula: ClassVar[str] = (
        "x rounded to the nearest of `levels` values from −m to m, m the largest of the row in size"
    )

    levels: Annotated[int, Meta(ge=2), about("number of values", "1")] = 127

    @override
    def inputs(self, site: Site, x: Tensor) -> Tensor:
        step = 2 * x.abs().amax(-1, True).clamp_min(1e-12) / (self.levels - 1)
        return torch.round(x / step) * step


@dataclass(frozen=True)
class PulsedDevice(ChipModel):
    """A resistive device whose weight moves by pulses, each a little different; bounded, fallible.

    With w_b the bound that a pulse moves to and γ the slope of that direction (1 is "soft bounds",
    0 a constant step), a pulse moves a weight w by ``±step·(1 ± b)·(1 − γ w / w_b)·(1 + cycle·ξ)``.
    """

    formula: ClassVar[str] = (
        "w ← w ± step·(1 ± asymmetry)·(1 − γ·w/w_b)·(1 + cycle·ξ), within [low, high], w_b the "
        "bound ahead; read as w + step·write_noise·ξ"
    )

    step: Annotated[Positive, about("mean smallest step at w = 0", "1")] = 0.002
    step_spread: Annotated[NotNegative, about("of steps over devices, log-normal", "1")] = 0.3
    cycle: Annotated[NotNegative, about("of a step from pulse to pulse, as a share", "1")] = 0.3
    asymmetry: Annotated[float, Meta(ge=-1, le=1), about("of steps up over steps down", "1")] = 0.0
    asymmetry_spread: Annotated[NotNegative, about("of the asymmetry over devices", "1")] = 0.01
    slope_up: Annotated[Share, about("γ of pulses up", "1")] = 1.0
    slope_down: Annotated[Share, about("γ of pulses down", "1")] = 1.0
    high: Annotated[Positive, about("mean upper bound", "1")] = 1.0
    low: Annotated[float, Meta(lt=0), about("mean lower bound", "1")] = -1.0
    bound_spread: Annotated[NotNegative, about("of both bounds over devices, as a share", "1")] = (
        0.3
    )
    write_noise: Annotated[NotNegative, about("of what is read after a write", "steps")] = 0.0
    failed: Annotated[Share, about("share of devices that are stuck", "1")] = 0.0
    stuck_range: Annotated[NotNegative, about("within which they are stuck, around 0", "1")] = 0.01
    lifetime: Annotated[NotNegative, about("of a charge; 0 for ever", "changes")] = 0.0
    one_sided: Annotated[Share, about("1: a pair of devices that only grow", "1")] = 0.0
    drift: Annotated[Share, about("1: phase-change drift over time", "1")] = 0.0
    programming_noise: Annotated[Share, about("1: that of phase-change cells", "1")] = 0.0
    pulse_energy: Annotated[NotNegative, about("of one pulse, assumed", "J")] = 1e-12
    read_energy: Annotated[NotNegative, about("of one device in one product, assumed", "J")] = 1e-15

    @override
    def check(self) -> None:
        """Refuse flags that are neither 0 nor 1."""
        for name in ("one_sided", "drift", "programming_noise"):
            if getattr(self, name) not in (0.0, 1.0):
                raise ConfigError(f"{name} is 0 or 1, got {getattr(self, name)}")


MODELS: dict[str, type[ChipModel]] = {
    model.__name__: model
    for model in (
        GaussianNoise,
        MultiplicativeNoise,
        ReadNoise,
        OrnsteinUhlenbeckNodeNoise,
        TelegraphNodeNoise,
        Offset,
        WeightMismatch,
        ConductanceDrift,
        DeadNodes,
        Converter,
        InputConverter,
        PulsedDevice,
    )
}
"""Every model under the name that `to_dict` writes."""

_EARLIER_NAMES = {
    "OrnsteinUhlenbeckNoise": "OrnsteinUhlenbeckNodeNoise",
    "TelegraphNoise": "TelegraphNodeNoise",
}

_RERAM_OM = PulsedDevice(*(0.0949, 0.7829, 0.4158), bound_spread=0.45, write_noise=1.4113)
_RERAM_HFO2 = PulsedDevice(*(0.4622, 0.7125, 0.2174), bound_spread=0.5, write_noise=0.5841)
_IO: tuple[ChipModel, ...] = (InputConverter(127), GaussianNoise(0.06), Converter(12.0, 511))

PRESETS: dict[str, tuple[ChipModel, ...]] = {
    "ideal": (),
    "analog": (WeightMismatch(0.3), GaussianNoise(0.06), Converter(12.0, 510)),
    "spintronic": (
        Offset(0.042092),
        TelegraphNodeNoise(0.0059316, 0.0809),
        GaussianNoise(9.0841e-4),
    ),
    "exact": (PulsedDevice(1e-5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, bound_spread=0.0), *_IO),
    "reram": (
        PulsedDevice(*(0.00135, 0.2, 5.0), asymmetry=0.0, asymmetry_spread=0.05, write_noise=75.0),
        *_IO,
    ),
    "reram-om": (_RERAM_OM, *_IO),
    "reram-om-failed": (dataclasses.replace(_RERAM_OM, failed=0.135), *_IO),
    "reram-hfo2": (_RERAM_HFO2, *_IO),
    "reram-hfo2-failed": (dataclasses.replace(_RERAM_HFO2, failed=0.098), *_IO),
    "pcm": (
        PulsedDevice(
            *(0.01, 0.2, 0.6),
            asymmetry_spread=0.05,
            bound_spread=0.1,
            one_sided=1.0,
            drift=1.0,
            programming_noise=1.0,
            pulse_energy=1e-11,
        ),
        ReadNoise(0.02),
        *_IO,
    ),
    "ecram": (
        PulsedDevice(
            *(0.002, 0.1, 0.3),
            **{"slope_up": 0.1153, "slope_down": 0.5085, "high": 1.1724, "low": -0.8276},
            bound_spread=0.05,
        ),
        *_IO,
    ),
    "ecram-mo": (
        PulsedDevice(
            *(0.00028214, 0.1, 2.0),
            **{"slope_up": 0.4152, "slope_down": 0.7342, "high": 1.1714, "low": -0.8286},
            bound_spread=0.05,
        ),
        *_IO,
    ),
    "capacitor": (
        PulsedDevice(
            *(0.005, 0.1, 0.3),
            asymmetry_spread=0.06,
            **{"slope_up": 0.05, "slope_down": 0.05},
            bound_spread=0.07,
            lifetime=1e6,
        ),
        *_IO,
    ),
}
"""Ready-made chips.

*analog*: 30 % device mismatch and output noise .06 read by a converter of 510 levels to ±12 (the
magnitudes that the simulator aihwkit has as defaults; there the 30 % concern how devices are
programmed). *spintronic*: the noise of magnetic tunnel junctions as measured and modelled for node
perturbation by artcogsys/MTJ-Node-Perturbation.

Those with a `PulsedDevice` are written by pulses. Smallest step, spread from device to device and
from pulse to pulse, slopes and bounds are those of aihwkit's presets, fitted to: *reram* Gong et
al., Nature Communications 2018 (there an exponential step; here soft bounds); *reram-om* and
*reram-hfo2* Gong, Rasch et al., IEDM 2022, the array of optimised material and that of HfO₂,
symmetry points taken out, *-failed* with the 13.5 % and 9.8 % of failed devices that were measured;
*pcm* Nandakumar et al., Front. Neurosci. 2020 (pairs that only grow; here soft bounds) with
programming noise and drift of Nandakumar et al., ICECS 2019; *ecram* Tang et al., IEDM 2018;
*ecram-mo* Kim et al., IEDM 2019; *capacitor* Li et al., VLSI 2018. *exact* has devices without
fault and the same converters (127 levels in, 511 out to ±12, output noise .06). Energies, and the
read noise of *pcm*, are round numbers of ours, not measured."""

ChipSpec = float | str | ChipModel | Mapping[str, Any] | Iterable["float | str | ChipModel"]
"""What may stand where a chip is described."""


def resolve(spec: ChipSpec) -> tuple[ChipModel, ...]:
    """The models of what describes a chip.

    Args:
        spec: a model, a dictionary as `ChipModel.to_dict` writes it, a number (the standard
            deviation of Gaussian noise), a text, or a sequence of these. A text is the name of a
            preset, a number, or a model with what differs from its defaults,
            ``"Converter:bound=8:levels=255"``, or a preset with a device and what differs in that,
            ``"reram-om:failed=0.1"``; or several of these with commas between.

    Raises:
        ConfigError: it is none of these.
        UnknownNameError: a preset, model or parameter of this name does not exist.
    """
    if isinstance(spec, ChipModel):
        return (spec,)
    if isinstance(spec, str):
        return tuple(model for part in spec.split(",") for model in _named(part.strip()))
    if isinstance(spec, int | float) and not isinstance(spec, bool):
        return (GaussianNoise(spec),)
    if isinstance(spec, Mapping):
        parameters = dict(spec)
        name = str(parameters.pop("model", None))
        name = _EARLIER_NAMES.get(name, name)
        if name not in MODELS:
            known = (*PRESETS, *MODELS)
            raise UnknownNameError("chip", name, known, f"Known: {', '.join(known)}.")
        return (MODELS[name].from_dict(parameters, f"{name}."),)
    if isinstance(spec, Iterable) and not isinstance(spec, bytes):
        return tuple(model for part in spec for model in resolve(part))
    raise ConfigError(
        f"{spec!r} does not describe a chip; give a model such as GaussianNoise(0.06), a preset "
        f"({', '.join(PRESETS)}), a standard deviation, or a sequence of these"
    )


def _named(text: str) -> tuple[ChipModel, ...]:
    """The models of a preset, a number, or ``Model:parameter=value``."""
    if text in PRESETS:
        return PRESETS[text]
    with contextlib.suppress(ValueError):
        return (GaussianNoise(float(text)),)
    name, *given = text.split(":")
    if any(isinstance(model, PulsedDevice) for model in PRESETS.get(name, ())):
        # A preset with another device: what is given takes the place of what the device has.
        new = _named(":".join(("PulsedDevice", *given)))[0].to_dict()
        keys = [part.partition("=")[0] for part in given]
        return tuple(
            dataclasses.replace(model, **{key: new[key] for key in keys})
            if isinstance(model, PulsedDevice)
            else model
            for model in PRESETS[name]
        )
    values: dict[str, Any] = {"model": name}
    for key, _, value in (part.partition("=") for part in given):
        try:
            values[key] = json.loads(value)
        except ValueError:
            raise ConfigError(
                f"{text!r} describes no chip; write a model as Name:parameter=number, such as "
                "Converter:bound=8:levels=255"
            ) from None
    return resolve(values)


def model_table() -> str:
    """The models for `docs/reference/chips.md`, one row each: what, formula and parameters."""
    rows = ["| model | in the place of | parameters (default, unit) |", "|---|---|---|"]
    for name, model in MODELS.items():
        hints = typing.get_type_hints(model, include_extras=True)
        parameters = "<br>".join(
            _parameter(field.name, field.default, hints[field.name])  # type: ignore[arg-type]
            for field in dataclasses.fields(model)
        )
        what = (model.__doc__ or "").splitlines()[0]
        rows.append(f"| **{name}**<br>{what} | {model.formula} | {parameters} |")
    return "\n".join(rows)


def preset_table() -> str:
    """The presets for `docs/reference/chips.md`, one row each: their models."""
    rows = ["| preset | models, in order |", "|---|---|"]
    for name, models in PRESETS.items():
        rows.append(f"| **{name}** | {'<br>'.join(map(_call, models)) or 'none'} |")
    return "\n".join(rows)


def _parameter(name: str, default: float, hint: Any) -> str:  # noqa: ANN401 - a type
    meta: Meta = hint.__metadata__[-1]
    assert meta.extra is not None
    unit = "" if meta.extra["unit"] == "1" else f" {meta.extra['unit']}"
    return f"`{name}` ({default:g}{unit}): {meta.description}"


def _call(model: ChipModel) -> str:
    values = ", ".join(f"{name}={value:g}" for name, value in dataclasses.asdict(model).items())
    return f"`{type(model).__name__}({values})`"
