"""Optimization planning: which clips and learning rates in which order, and how many epochs of each.

A state is a clip setting and a learning rate. The candidate paths are those of a graph from the source, which is
for the weights that training starts from, to the sink, the longest clips at the lowest rate. Training along an edge
ends at the peak of its accuracy; a dynamic program keeps for each state the best model that reaches it.

Everything here is arithmetic; `launch/search_schedule.py` does the training. The method is that of *Optimization
Planning for 3D ConvNets* (Qiu, Yao, Ngo, Mei; ICML 2021).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

import numpy as np

from launch.training.clip_schedule import ClipConfig, PhaseConfig
from sharding.errors import check_minimum

SOURCE = 0


@dataclass(frozen=True)
class PlanConfig:
    """The states, the graph and when to stop."""

    clips: tuple[ClipConfig, ...] = (
        ClipConfig(num_segments=4, learning_rate=0.01, batch_norm="train"),
        ClipConfig(num_segments=8, learning_rate=0.01, batch_norm="train"),
        ClipConfig(num_segments=16, learning_rate=0.001, batch_norm="partial"),
    )
    """Clip settings, shortest first, each with its highest learning rate."""
    rate_factors: tuple[float, ...] = (1.0, 0.1, 0.01)
    """What the learning rate of a clip setting is multiplied by; each with each setting is a state."""
    extended: bool = True
    """Allow transitions to shorter clips and a lower rate at once."""
    patience_epochs: int = 10
    """T: training along an edge ends this many epochs after its peak, and the first estimate is made after so many, but
    no fewer than four."""
    max_epochs: int = 200
    """Maximum of epochs along one edge."""

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("plan.clips=[]: give at least one clip setting")
        if any(not clip.learning_rate for clip in self.clips):
            raise ValueError("plan.clips: give each clip setting its learning_rate, above 0")
        factors = self.rate_factors
        if not factors or list(factors) != sorted(set(factors), reverse=True) or factors[-1] <= 0:
            raise ValueError(f"plan.rate_factors={list(factors)}: use falling factors above 0")
        check_minimum(self, 1, "patience_epochs", "max_epochs", prefix="plan.")

    @property
    def num_states(self) -> int:
        """The number of states, which is that of the last one, the sink."""
        return len(self.clips) * len(self.rate_factors)

    def phase(self, state: int, epochs: int) -> PhaseConfig:
        """Return a phase of so many epochs in a state."""
        clip, rate = divmod(state - 1, len(self.rate_factors))
        setting = self.clips[clip]
        assert setting.learning_rate is not None
        learning_rate = float(f"{setting.learning_rate * self.rate_factors[rate]:.6g}")
        values: dict[str, Any] = {name: getattr(setting, name) for name in ClipConfig.__dataclass_fields__}
        values["learning_rate"] = learning_rate
        return PhaseConfig(**values, epochs=epochs)


class Edge(NamedTuple):
    """From a state to another; 0 is the source, states are numbered from 1, clip by clip, from the highest rate on."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


def plan_edges(num_clips: int, num_rates: int, extended: bool) -> tuple[Edge, ...]:
    """Return transitions to the next longer clips or the next lower rate; extended: to shorter clips and a lower rate
    too.

    In topological order: when an edge comes, all that end where it starts have been.

    >>> [str(edge) for edge in plan_edges(2, 2, extended=True)]
    ['0-1', '0-3', '1-3', '1-2', '3-2', '2-4', '3-4']
    """
    steps = [(1, 0), (0, 1), *([(-1, 1)] if extended else [])]
    into: dict[int, list[int]] = {state: [] for state in range(num_clips * num_rates + 1)}
    for clip, rate in itertools.product(range(num_clips), range(num_rates)):
        for longer, lower in steps:
            if 0 <= clip + longer < num_clips and rate + lower < num_rates:
                into[(clip + longer) * num_rates + rate + lower + 1].append(clip * num_rates + rate + 1)
    for clip in range(min(2, num_clips)):
        into[clip * num_rates + 1].insert(0, SOURCE)
    return tuple(Edge(start, end) for end in TopologicalSorter(into).static_order() for start in into[end])


@dataclass(frozen=True)
class Curve:
    """f(x) = -a exp(-b x) - c x - d x^2 + e of the epoch x, with a, b, d, e >= 0: it has one maximum."""

    a: float
    b: float
    c: float
    d: float
    e: float

    def __call__(self, epoch: float | np.ndarray) -> float | np.ndarray:
        return -self.a * np.exp(-self.b * epoch) - self.c * epoch - self.d * epoch**2 + self.e

    def peak(self, most: int) -> int:
        """Return the epoch in [0, most] where it is highest; the first of several, up to rounding."""
        return int(np.argmax(np.round(self(np.arange(most + 1.0)), 9)))


def fit_curve(metrics: Sequence[float]) -> Curve | None:
    """Fit the curve of least squares through the metrics after 0, 1, … epochs; None from fewer than five, or if one is
    no number.

    Given b the curve is linear in the rest, so only b is searched.
    """
    values = np.asarray(metrics, float)
    if len(values) < 5 or not np.isfinite(values).all():
        return None
    grid = np.geomspace(0.05 / len(values), 5.0, 64)
    for _ in range(4):
        best = int(np.argmin([_fit_linear(values, b)[1] for b in grid]))
        grid = np.geomspace(grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)], 17)
    b = min(grid, key=lambda b: _fit_linear(values, b)[1])
    a, c, d, e = _fit_linear(values, b)[0]
    return Curve(float(a), float(b), float(c), float(d), float(e))


def _fit_linear(values: np.ndarray, b: float) -> tuple[np.ndarray, float]:
    """Return (a, c, d, e) of the best curve with this b, and its sum of squares.

    The best under a, d, e >= 0 is the unconstrained best of those that are not zero: of all choices of these the best
    that has no negative one.
    """
    x = np.arange(len(values), dtype=float)
    largest = x[-1]
    columns = np.stack([-np.exp(-b * x), -x / largest, -((x / largest) ** 2), np.ones_like(x)], axis=1)
    found, smallest = np.zeros(4), np.inf
    for kept in itertools.product((True, False), repeat=3):
        mask = np.array([kept[0], True, kept[1], kept[2]])
        solution = np.zeros(4)
        solution[mask] = np.linalg.lstsq(columns[:, mask], values, rcond=None)[0]
        residual = float(np.sum((columns @ solution - values) ** 2))
        if (solution[[0, 2, 3]] >= 0).all() and residual < smallest:
            found, smallest = solution, residual
    return found / [1, largest, largest**2, 1], smallest


def find_peak(metrics: Sequence[float], patience: int, most: int) -> tuple[int, float] | None:
    """Return the peak and the fitted metric there, once training has gone `patience` epochs beyond it or `most` in all;
    None before.

    Args:
        metrics: after 0, 1, … epochs.
    """
    epochs = len(metrics) - 1
    if epochs < min(patience, most):
        return None
    curve = fit_curve(metrics)
    if curve is not None:
        peak = curve.peak(most)
        if epochs >= min(peak + patience, most):
            return peak, float(curve(peak))
    elif epochs >= most:
        peak = int(np.argmax(metrics))
        return peak, float(metrics[peak])
    return None


@dataclass(frozen=True)
class Outcome:
    """What training along an edge came to."""

    edge: Edge
    metrics: tuple[float, ...]
    """On the validation split after 0, 1, … epochs, under the clips of the edge's end; the first is that of the model
    it started from, 0 if that was not trained."""
    epochs: int
    """Of the peak: those that count."""
    score: float
    """The fitted metric there."""
    weights: str | None
    """File of the weights after so many epochs; None are those that the run starts from."""

    @property
    def metric(self) -> float:
        """Of the weights."""
        return self.metrics[self.epochs]


@dataclass
class Plan:
    """The edges tried so far, and for each state the best of those that end there."""

    outcomes: list[Outcome] = field(default_factory=list)
    best: dict[int, Outcome] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Take in the outcome of an edge; of equal scores the first stays."""
        self.outcomes.append(outcome)
        end = outcome.edge.end
        if end not in self.best or outcome.score > self.best[end].score:
            self.best[end] = outcome

    def trace(self, sink: int) -> tuple[Outcome, ...]:
        """Return the outcomes from the source to the sink that made the sink's model."""
        found: list[Outcome] = []
        while sink != SOURCE:
            found.append(self.best[sink])
            sink = self.best[sink].edge.start
        return tuple(reversed(found))

    def path(self, sink: int) -> tuple[Outcome, ...]:
        """Return the same without those of zero epochs: what is to be trained."""
        return tuple(outcome for outcome in self.trace(sink) if outcome.epochs > 0)


def find_plan(edges: Sequence[Edge], train: Callable[[Edge, Outcome | None], Outcome | None]) -> Plan | None:
    """Run the dynamic program: each edge is trained once, from the best model of its start.

    Where states have one model, since edges of zero epochs hand it on, edges from them into one state are the same
    training, which is not repeated.

    Args:
        edges: in topological order.
        train: trains along an edge, from the outcome that made the model of its start, None at the source; if it
            returns None, so does the program.
    """
    plan = Plan()
    trained: dict[tuple[int, str | None], Outcome] = {}
    for edge in edges:
        start = plan.best.get(edge.start)
        training = edge.end, start.weights if start else None
        if training not in trained:
            outcome = train(edge, start)
            if outcome is None:
                return None
            trained[training] = outcome
        plan.add(replace(trained[training], edge=edge))
    return plan
