"""Calibration, intervals and tables, against counting by hand and published values."""

import csv

import numpy as np
import pytest

from launch.inference.calibration import measure_calibration
from launch.inference.class_table import classes_csv, wilson_interval


def test_calibration_against_counting_sample_by_sample():
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.full(4, 0.3), 500).astype(np.float32)
    labels = generator.integers(0, 4, 500)
    found = measure_calibration(scores, labels, 10)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(scores.astype(float), labels):
        confidence = max(row)
        number = next(m for m in range(10) if confidence <= (m + 1) / 10)
        bins.setdefault(number, []).append((confidence, list(row).index(confidence) == label))
    expected = sum(
        len(samples) / 500 * abs(np.mean([right for _, right in samples]) - np.mean([c for c, _ in samples]))
        for samples in bins.values()
    )
    assert found.error == pytest.approx(expected, abs=1e-9)
    assert found.counts.tolist() == [len(bins.get(m, [])) for m in range(10)]
    assert found.bias == pytest.approx(scores.max(1).mean() - (scores.argmax(1) == labels).mean(), abs=1e-6)


def test_calibration_of_a_network_that_knows_how_often_it_is_right():
    scores = np.tile(np.array([[0.75, 0.25]]), (400, 1))
    labels = np.repeat([0, 0, 0, 1], 100)
    assert measure_calibration(scores, labels).error == pytest.approx(0)
    assert measure_calibration(scores, 1 - labels).error == pytest.approx(0.5)
    assert np.isnan(measure_calibration(scores[:0], labels[:0]).error)


@pytest.mark.parametrize(
    ("correct", "samples", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_against_published_ones(correct, samples, low, high):
    assert wilson_interval(correct, samples) == pytest.approx((low, high), abs=5e-5)
    # From the other side.
    assert wilson_interval(samples - correct, samples) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_table_begins_with_the_worst_class():
    confusion = np.array([[9, 1, 0, 0], [0, 1, 1, 0], [3, 0, 3, 0], [0, 0, 0, 0]])
    rows = list(csv.DictReader(classes_csv(confusion, ("a", "b,", "c", "d")).splitlines()))
    assert [row["class"] for row in rows] == ["c", "b,", "a", "d"]
    assert [row["accuracy"] for row in rows] == ["0.5000", "0.5000", "0.9000", ""]
    assert (rows[0]["most_often_taken_for"], rows[0]["times_taken_for"]) == ("a", "3")
    assert [row["samples"] for row in rows] == ["6", "2", "10", "0"]
    low, high = wilson_interval(9, 10)
    assert (rows[2]["low_95"], rows[2]["high_95"]) == (f"{low:.4f}", f"{high:.4f}")
