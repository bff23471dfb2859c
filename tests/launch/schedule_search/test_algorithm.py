"""The plan's arithmetic: the graph, the peak of curves with known maxima, the dynamic program against brute force."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.schedule_search.algorithm import (
    Curve,
    Edge,
    Outcome,
    Plan,
    PlanConfig,
    find_peak,
    find_plan,
    fit_curve,
    plan_edges,
)
from launch.training.clip_schedule import ClipConfig

BASE = "0-1 0-4 1-4 1-2 4-7 2-5 4-5 2-3 5-8 7-8 3-6 5-6 6-9 8-9"


def test_the_graphs_are_those_of_the_paper():
    assert {str(edge) for edge in plan_edges(3, 3, extended=False)} == set(BASE.split())
    assert {str(edge) for edge in plan_edges(3, 3, extended=True)} == {*BASE.split(), "4-2", "7-5", "5-3", "8-6"}


@given(st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_edges_come_in_topological_order(num_clips, num_rates, extended):
    edges = plan_edges(num_clips, num_rates, extended)
    assert len(edges) == len(set(edges))
    last = {edge.end: place for place, edge in enumerate(edges)}
    assert all(place > last[edge.start] for place, edge in enumerate(edges) if edge.start)
    assert set(last) == set(range(1, num_clips * num_rates + 1))
    assert edges[-1].end == num_clips * num_rates


def test_a_state_is_a_clip_setting_and_a_rate():
    plan = PlanConfig()
    first = plan.phase(1, 3)
    assert (first.learning_rate, first.num_segments, first.epochs) == (0.01, 4, 3)
    assert plan.phase(5, 1).learning_rate == 0.001 and plan.phase(5, 1).num_segments == 8
    assert plan.phase(9, 1).learning_rate == 1e-5 and plan.phase(9, 1).batch_norm == "partial"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": ()}, "plan.clips"),
        ({"rate_factors": (0.1, 1.0)}, "falling"),
        ({"rate_factors": ()}, "falling"),
        ({"clips": (ClipConfig(num_segments=4),)}, "learning_rate"),
        ({"patience_epochs": 0}, "plan.patience_epochs=0"),
    ],
)
def test_a_plan_that_is_none(change, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(**change)


CURVES = [Curve(0.5, 0.2, 0.0, 1e-4, 0.7), Curve(0.3, 0.05, -1e-4, 5e-5, 0.6), Curve(0.2, 0.5, 0.003, 0.0, 0.5)]


@pytest.mark.parametrize("curve", CURVES)
def test_the_knee_of_a_made_curve(curve):
    """The maximum, found where the derivative a b exp(-b x) - c - 2 d x is zero, by bisection."""
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        slope = curve.a * curve.b * np.exp(-curve.b * middle) - curve.c - 2 * curve.d * middle
        low, high = (middle, high) if slope > 0 else (low, middle)
    assert abs(curve.peak(1000) - low) <= 1
    metrics = curve(np.arange(round(low) + 11.0))
    fitted = fit_curve(metrics)
    assert abs(fitted.peak(1000) - curve.peak(1000)) <= 1
    assert fitted(np.arange(len(metrics))) == pytest.approx(metrics, abs=1e-4)


@pytest.mark.parametrize("curve", CURVES)
def test_training_stops_soon_after_the_knee_in_spite_of_noise(curve):
    true, noise = curve.peak(1000), np.random.default_rng(0).normal(0, 0.003, 400)
    metrics = [float(curve(epoch)) + noise[epoch] for epoch in range(400)]
    stops = (epochs for epochs in range(400) if find_peak(metrics[: epochs + 1], 10, 1000))
    stop = next(stops)
    peak, score = find_peak(metrics[: stop + 1], 10, 1000)
    assert abs(stop - true - 10) <= 0.35 * true + 3
    assert curve(true) - curve(peak) < 0.01 and score == pytest.approx(float(curve(true)), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=30))
def test_fitted_curves_keep_the_signs_and_beat_the_mean(metrics):
    fitted = fit_curve(metrics)
    assert min(fitted.a, fitted.b, fitted.d, fitted.e) >= 0
    residual = np.sum((fitted(np.arange(len(metrics))) - metrics) ** 2)
    assert residual <= np.sum((np.array(metrics) - np.mean(metrics)) ** 2) + 1e-9
    slopes = np.diff(fitted(np.arange(100.0)))
    assert (np.diff(slopes) <= 1e-9).all()  # one maximum


def test_without_a_fit_training_goes_on_to_its_limit():
    assert fit_curve([0.1, 0.2, 0.3]) is None and fit_curve([0.1] * 9 + [float("nan")]) is None
    assert find_peak([0.1, 0.3, 0.2], 2, 9) is None
    assert find_peak([0.1, 0.3, 0.2], 2, 2) == (1, 0.3)


def test_what_never_rises_has_its_knee_at_zero():
    assert find_peak([0.5 - 0.01 * epoch for epoch in range(10)], 10, 99) is None
    peak, score = find_peak([0.5 - 0.01 * epoch for epoch in range(11)], 10, 99)
    assert peak == 0 and score == pytest.approx(0.5, abs=1e-3)
    assert find_peak([1.0] * 11, 10, 99) == (0, pytest.approx(1.0))
    peak, _ = find_peak([0.01 * epoch for epoch in range(31)], 10, 30)
    assert peak == 30


def all_paths(edges: tuple[Edge, ...], state: int, sink: int):
    if state == sink:
        yield ()
    for edge in edges:
        if edge.start == state:
            for rest in all_paths(edges, edge.end, sink):
                yield (edge, *rest)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("extended", [False, True])
def test_the_dynamic_program_finds_the_best_of_all_paths(seed, extended):
    """Where a better start never makes a worse end, which is what the method assumes."""
    draw = random.Random(seed)
    edges = plan_edges(3, 3, extended)
    gains = {edge: (draw.uniform(0, 0.4), draw.randrange(3)) for edge in edges}

    def train(edge: Edge, start: Outcome | None) -> Outcome:
        before = start.score if start else 0.0
        gain, epochs = gains[edge]
        after = before + gain * (1 - before) if epochs else before
        return Outcome(edge, (before, *[after] * epochs), epochs, after, f"{start.weights if start else ''} {edge}")

    trained = []
    plan = find_plan(edges, lambda edge, start: trained.append(edge) or train(edge, start))
    assert trained == list(edges)

    def follow(path) -> Outcome:
        outcome = None
        for edge in path:
            outcome = train(edge, outcome)
        return outcome

    paths = list(all_paths(edges, 0, 9))
    assert len(paths) == len(set(paths)) == (35 if extended else 9)
    best = max(follow(path).score for path in paths)
    assert plan.best[9].score == pytest.approx(best)
    taken = plan.path(9)
    assert all(outcome.epochs > 0 for outcome in taken)
    assert [str(edge) for edge in (outcome.edge for outcome in taken)] == [
        name for name in plan.best[9].weights.split() if gains[Edge(*map(int, name.split("-")))][1]
    ]


def test_a_plan_broken_off_is_none():
    edges, trained = plan_edges(2, 2, extended=False), []

    def train(edge: Edge, start: Outcome | None) -> Outcome | None:
        trained.append(edge)
        return None if len(trained) == 3 else Outcome(edge, (0.0, 0.5), 1, 0.5, str(edge))

    assert find_plan(edges, train) is None and trained == list(edges[:3])


def test_edges_out_of_copies_of_one_model_are_trained_once():
    """States 2 and 3 have the model of state 1, and an edge leads from each to state 4."""
    edges, trained = plan_edges(2, 2, extended=False), []
    assert edges[-2:] == (Edge(2, 4), Edge(3, 4))

    def train(edge: Edge, start: Outcome | None) -> Outcome:
        trained.append(str(edge))
        if edge.start == 1:  # nothing is gained: the model of state 1 goes to 2 and 3
            return Outcome(edge, (0.5, 0.4), 0, 0.5, start.weights)
        gain = 0.1 if edge.end == 3 else 0.5
        return Outcome(edge, (0.0, gain), 1, gain, str(edge))

    plan = find_plan(edges, train)
    assert trained == [str(edge) for edge in edges[:-1]]
    first, again = plan.outcomes[-2:]
    assert again == replace(first, edge=Edge(3, 4)) and first.weights == "2-4"
    assert plan.best[4] is not again  # of equal scores the first stays


def test_a_state_without_epochs_does_not_tear_the_path():
    plan = Plan()
    for edge, epochs in ((Edge(0, 1), 1), (Edge(1, 2), 0), (Edge(2, 3), 1)):
        plan.add(Outcome(edge, (0.0, 0.5), epochs, 0.5, "weights"))
    assert [str(outcome.edge) for outcome in plan.trace(3)] == ["0-1", "1-2", "2-3"]
    assert [str(outcome.edge) for outcome in plan.path(3)] == ["0-1", "2-3"]


def test_of_equal_edges_the_first_stays():
    plan = Plan()
    for edge in (Edge(0, 1), Edge(0, 2), Edge(1, 3), Edge(2, 3)):
        plan.add(Outcome(edge, (0.0, 0.5), 1, 0.5, str(edge)))
    assert [str(outcome.edge) for outcome in plan.path(3)] == ["0-1", "1-3"]
    assert list(itertools.chain.from_iterable(outcome.metrics for outcome in plan.path(3))) == [0.0, 0.5, 0.0, 0.5]
