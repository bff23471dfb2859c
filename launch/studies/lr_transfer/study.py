"""Learning rates that carry over depths: measured on shallow networks, predicted for deep ones (AM-muP).

The command is launch/lr_transfer.py. For each depth the best of a logarithmic grid of learning rates is sought: the one
with the lowest loss after so many steps. With L layers on the network's shortest path the theory says

    best learning rate = kappa L^(-3/2)

for SGD without momentum on networks without normalisation, where it keeps the mean square of what one step changes of
the layers' outputs the same for all depths; that is measured too, and says which exponent would. kappa is the mean over
the shallow depths; next to it the power law fitted to them. Both are held against the depths held out, whose best
learning rate is measured too.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from launch.studies.lr_transfer.task import TaskConfig, mean_square_update, train
from launch.training.checkpoint import describe_versions
from launch.visualization.figures import plt, save
from model.am_mup import minimal_depth
from model.config import DEPTHS
from sharding.cli import CommandLine
from sharding.errors import UserError
from sharding.files import check_writable, write_atomically

EXPONENT = -1.5
"""Of the theory."""
WORSE = 2
"""Learning rates in a row that are worse than the best, on either side of it, before the search ends there."""
MOST_RATES = 60


@dataclass(frozen=True)
class TransferConfig:
    """Which depths, and which learning rates."""

    task: TaskConfig = field(default_factory=TaskConfig)
    """The networks and their training."""
    depths: tuple[int, ...] = (2, 4, 8)
    """Shallow depths, which the prediction is made from: residual blocks, convolutions, or the ResNet's depth."""
    held_out: tuple[int, ...] = (16,)
    """Deeper ones, measured to verify the prediction."""
    predict: tuple[int, ...] = ()
    """Deeper ones, only predicted."""
    rates_per_decade: int = 4
    """Learning rates tried within a factor of ten."""
    first_rate: float = 0.1
    """Where the search begins on the first depth."""

    def __post_init__(self) -> None:
        shallow = self.depths
        if not shallow or list(shallow) != sorted(set(shallow)) or shallow[0] < 1:
            raise ValueError(f"--depths {list(shallow)}: use rising depths from 1 on")
        for name in ("held_out", "predict"):
            if any(depth <= shallow[-1] for depth in getattr(self, name)):
                raise ValueError(f"--{name} {list(getattr(self, name))}: use depths above those of --depths")
        if self.rates_per_decade < 1 or not self.first_rate > 0:
            raise ValueError(
                f"--rates_per_decade {self.rates_per_decade}, --first_rate {self.first_rate}: use 1 or more, above 0"
            )
        if self.task.network == "resnet":
            wrong = {*shallow, *self.held_out, *self.predict} - set(DEPTHS["tsn"])
            if wrong:
                allowed = ", ".join(map(str, DEPTHS["tsn"]))
                raise ValueError(f"--depths {sorted(wrong)}: allowed for --task.network resnet are {allowed}")


@dataclass(frozen=True)
class Measurement:
    """The best learning rate of a depth."""

    depth: int
    layers: int
    """L: on the shortest path."""
    best_rate: float
    """Of the parabola through the lowest loss and its neighbours, over the logarithm of the learning rate."""
    best_loss: float
    """The lowest."""
    losses: dict[float, float]
    """Of every learning rate tried; infinite where the training diverged."""
    update: float
    """`mean_square_update`"""


@dataclass(frozen=True)
class PowerLaw:
    """kappa L^exponent"""

    kappa: float
    exponent: float

    def __call__(self, layers: int) -> float:
        return self.kappa * layers**self.exponent


def layers_of(network: str, depth: int) -> int:
    """Return L of a network: the layers of its shortest path.

    >>> layers_of("residual", 8), layers_of("plain", 8), layers_of("resnet", 50)
    (10, 8, 18)
    """
    return {"residual": depth + 2, "plain": depth}.get(network) or minimal_depth(depth)


def fit_law(layers: Sequence[int], rates: Sequence[float], exponent: float | None = None) -> PowerLaw:
    """Return the power law through measured best learning rates: least squares of the logarithms; with `exponent`
    given, kappa is the mean of rate / layers^exponent."""
    if exponent is not None:
        return PowerLaw(float(np.mean([rate / count**exponent for count, rate in zip(layers, rates)])), exponent)
    slope, intercept = np.polyfit(np.log(layers), np.log(rates), 1)
    return PowerLaw(float(np.exp(intercept)), float(slope))


def search(loss_at: Callable[[float], float], first_rate: float, per_decade: int) -> dict[float, float]:
    """Return the losses of learning rates 10^(i / per_decade), from `first_rate` on until on either side of the best
    WORSE were tried.

    Raises:
        UserError: no end was found.
    """
    losses: dict[int, float] = {}
    wanted = [round(per_decade * math.log10(first_rate))]
    while wanted:
        place = wanted[0]
        losses[place] = loss_at(10 ** (place / per_decade))
        if len(losses) == MOST_RATES:
            raise UserError(f"--first_rate {first_rate}: no best learning rate within {MOST_RATES}; try another")
        best = min(losses, key=losses.__getitem__)
        if math.isinf(losses[best]):  # all too large
            wanted = [min(losses) - 1]
        else:
            around = (best + sign * distance for distance in range(1, WORSE + 1) for sign in (1, -1))
            wanted = [place for place in around if place not in losses]
    return {10 ** (place / per_decade): losses[place] for place in sorted(losses)}


def vertex(losses: dict[float, float]) -> float:
    """Return where the parabola through the lowest loss and its neighbours, over the logarithm of the rate, is lowest.

    Next to a training that diverged it is the best rate itself.
    """
    rates = sorted(losses)
    place = min(range(len(rates)), key=lambda i: losses[rates[i]])
    left, right = (losses[rates[place + side]] - losses[rates[place]] for side in (-1, 1))
    if math.isinf(left) or math.isinf(right) or left + right == 0:
        return rates[place]
    shift = 0.5 * (left - right) / (left + right)  # in steps of the grid
    return rates[place] * (rates[place + 1] / rates[place]) ** shift


def measure(config: TransferConfig, depth: int, first_rate: float) -> Measurement:
    """Seek the best learning rate of a depth."""
    losses = search(lambda rate: train(config.task, depth, rate), first_rate, config.rates_per_decade)
    layers = layers_of(config.task.network, depth)
    update = mean_square_update(config.task, depth)
    return Measurement(depth, layers, vertex(losses), min(losses.values()), losses, update)


def measure_all(config: TransferConfig) -> list[Measurement]:
    """Measure every depth, each search beginning where the theory expects its end after the one before."""
    found: list[Measurement] = []
    for depth in (*config.depths, *sorted(config.held_out)):
        rate = config.first_rate
        if found:
            rate = fit_law([found[-1].layers], [found[-1].best_rate], EXPONENT)(layers_of(config.task.network, depth))
        found.append(measure(config, depth, rate))
        last = found[-1]
        print(
            f"depth {depth}, L = {last.layers}: best learning rate {last.best_rate:.4g}, loss {last.best_loss:.3f} "
            f"({len(last.losses)} tried)",
            flush=True,
        )
    return found


def conclude(config: TransferConfig, found: Sequence[Measurement]) -> dict:
    """Return the laws, and what they say of the depths that are held out or only to be predicted."""
    network = config.task.network
    shallow = [measurement for measurement in found if measurement.depth in config.depths]
    layers, rates = [m.layers for m in shallow], [m.best_rate for m in shallow]
    laws = {"theory": fit_law(layers, rates, EXPONENT)}
    if len(set(layers)) > 1:
        laws["fitted"] = fit_law(layers, rates)
    held_out = [
        {
            "depth": m.depth,
            "layers": m.layers,
            "best_rate": m.best_rate,
            "best_loss": m.best_loss,
            "predicted": {
                name: {
                    "rate": law(m.layers),
                    "over_best": law(m.layers) / m.best_rate,
                    "loss": train(config.task, m.depth, law(m.layers)),
                }
                for name, law in laws.items()
            },
        }
        for m in found
        if m.depth in config.held_out
    ]
    predicted = [
        {"depth": depth, "layers": count, **{name: law(count) for name, law in laws.items()}}
        for depth, count in ((depth, layers_of(network, depth)) for depth in config.predict)
    ]
    counts = [m.layers for m in found]
    exponents = {}
    if len(set(counts)) > 1:
        exponents["of_best_rates"] = fit_law(counts, [m.best_rate for m in found]).exponent
        exponents["of_equal_updates"] = fit_law(counts, [m.update**-0.5 for m in found]).exponent
    return {
        "laws": {name: asdict(law) for name, law in laws.items()},
        "exponents_over_all_depths": exponents,
        "held_out": held_out,
        "predicted": predicted,
    }


def draw(found: Sequence[Measurement], conclusion: dict, title: str, path: Path) -> Path:
    """Draw the losses over the learning rates, and the best learning rates over L with the laws, log-log."""
    figure, (losses, law) = plt.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True)
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(found)))
    for m, color in zip(found, colors):
        rates = [rate for rate, loss in m.losses.items() if math.isfinite(loss)]
        losses.plot(rates, [m.losses[rate] for rate in rates], ".-", color=color, label=f"L = {m.layers}")
        losses.axvline(m.best_rate, color=color, linewidth=0.8, linestyle=":")
    losses.set(xscale="log", xlabel="learning rate", ylabel="loss at the end", title="losses; dotted: the best")
    held_out = {entry["depth"] for entry in conclusion["held_out"]}
    counts = sorted({m.layers for m in found} | {entry["layers"] for entry in conclusion["predicted"]})
    for (name, values), style in zip(conclusion["laws"].items(), ("-", "--")):
        line = PowerLaw(**values)
        law.plot(counts, [line(c) for c in counts], style, color="gray", label=f"{name}: L^{line.exponent:.2f}")
    for held, marker, label in ((False, "o", "shallow, measured"), (True, "s", "held out, measured")):
        points = [m for m in found if (m.depth in held_out) == held]
        law.plot([m.layers for m in points], [m.best_rate for m in points], marker, label=label)
    law.set(xscale="log", yscale="log", xlabel="L, layers on the shortest path", ylabel="best learning rate")
    law.set_xticks(counts, [str(count) for count in counts])
    law.minorticks_off()
    law.set_title(describe_exponents(conclusion))
    for axis in (losses.xaxis, law.yaxis):
        axis.set_major_formatter("{x:g}")
    for axes in (losses, law):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=12)
    return save(figure, path)


def describe_exponents(conclusion: dict) -> str:
    """Return the exponents over all measured depths, in a line."""
    exponents = conclusion["exponents_over_all_depths"]
    if not exponents:
        return "one depth only: no exponent"
    return f"exponent {exponents['of_best_rates']:.2f}; of equal updates {exponents['of_equal_updates']:.2f}"


def describe(task: TaskConfig) -> str:
    """Return the networks and their training, in a line."""
    optimizer = (
        f"Adam, first decay {task.momentum:g}" if task.optimizer == "adam" else f"SGD, momentum {task.momentum:g}"
    )
    size = "" if task.network == "resnet" else f", width {task.width}, {'BN' if task.batch_norm else 'no BN'}"
    return (
        f"{task.network} networks{size}, init {task.init}; {optimizer}; {task.steps} steps of {task.batch_size} images"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(
        prog="launch/lr_transfer.py",
        description="Measures the best learning rate of shallow networks and predicts that of deep ones.",
        exit_on_error=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="Picture to write, NAME.png; NAME.json next to it.")
    parser.add_argument("--threads", type=int, default=0, help="Threads of torch; 0 leaves them as they are.")
    parser.add_class_arguments(TransferConfig)
    options = parser.parse_args(arguments)
    try:
        values = parser.instantiate(options)
        config = TransferConfig(**{name: getattr(values, name) for name in TransferConfig.__dataclass_fields__})
    except ValueError as error:
        parser.error(str(error))
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: use a name that ends in .png")
    check_writable(options.out)
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    found = measure_all(config)
    conclusion = conclude(config, found)
    results = {"config": asdict(config), "measured": [asdict(m) for m in found], **conclusion}
    text = json.dumps(_finite(results | {"versions": describe_versions()}), indent=1)
    write_atomically(options.out.with_suffix(".json"), text + "\n")
    for entry in conclusion["held_out"]:
        for name, prediction in entry["predicted"].items():
            print(
                f"L = {entry['layers']}: {name} law predicts {prediction['rate']:.4g}, {prediction['over_best']:.2f} "
                f"of the best; loss {prediction['loss']:.3f}, at the best {entry['best_loss']:.3f}"
            )
    for entry in conclusion["predicted"]:
        rates = ", ".join(f"{entry[name]:.4g} by the {name} law" for name in conclusion["laws"])
        print(f"L = {entry['layers']}: learning rate {rates}")
    print(describe_exponents(conclusion))
    print(draw(found, conclusion, describe(config.task), options.out))


def _finite(value: object) -> object:
    """Replace infinities by null, the loss of a training that diverged: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
