"""The picture of a plan: its path leads from the source to the last state, whatever states got no epochs."""

import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Annotation

from launch.schedule_search import figure
from launch.schedule_search.algorithm import Edge, Outcome, Plan, PlanConfig
from launch.training.clip_schedule import ClipConfig


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure of the path 0-1-2-3, whose middle edge has no epochs, and of an edge beside it."""
    figures = []
    monkeypatch.setattr(figure, "save", lambda made, file: figures.append(made) or file)
    plan = Plan()
    for edge, epochs, score in ((Edge(0, 1), 1, 0.5), (Edge(1, 2), 0, 0.5), (Edge(2, 3), 1, 0.6), (Edge(0, 2), 1, 0.4)):
        plan.add(Outcome(edge, (0.0, 0.5), epochs, score, "weights"))
    clips = tuple(ClipConfig(num_segments=count, learning_rate=0.1) for count in (2, 4, 8))
    figure.draw_plan(plan, PlanConfig(clips=clips, rate_factors=(1.0,)), tmp_path / "plan.png")
    [made] = figures
    return made


def test_the_path_is_drawn_without_a_gap(drawn):
    graph = drawn.subfigs[0].axes[0]
    arrows = [child.arrow_patch for child in graph.get_children() if isinstance(child, Annotation)]
    styles = [(arrow.get_edgecolor(), arrow.get_linestyle()) for arrow in arrows if arrow is not None]
    red, grey = to_rgba(figure.CHOSEN), to_rgba(figure.OTHER)
    assert styles == [(red, "-"), (red, ":"), (red, "-"), (grey, "-")]


def test_every_state_of_the_path_is_marked(drawn):
    circles = [line for line in drawn.subfigs[0].axes[0].lines if line.get_marker() == "o"]
    assert [circle.get_markeredgecolor() for circle in circles] == [figure.CHOSEN] * 4
