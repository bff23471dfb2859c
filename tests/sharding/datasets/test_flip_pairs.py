"""Classes that change places when a video is mirrored."""

from pathlib import Path

import numpy as np
import pytest

from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.datasets.folder import read_folder
from sharding.datasets.list_file import read_list
from sharding.synthetic.motion import MOTIONS


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (["Pushing it from left to right", "Holding it", "Pushing it from right to left"], ((0, 2),)),
        (["Turning the camera Right", "turning the camera left"], ((0, 1),)),
        (["up_left", "up_right", "left", "right"], ((0, 1), (2, 3))),
        (["turn clockwise", "turn counterclockwise"], ((0, 1),)),
        (["turn_anticlockwise", "turn_clockwise"], ((0, 1),)),
        (["Leftovers", "Rightovers", "Moving to the left", "brightly", "blightly"], ()),
        (["0", "1"], ()),
    ],
)
def test_pairs_are_named_once(classes: list[str], pairs: tuple) -> None:
    assert mirrored_pairs(classes) == pairs


def test_names_of_motions_say_what_mirroring_does() -> None:
    """A motion mirrored is the one its name is paired with, or itself."""
    names, time = list(MOTIONS), np.linspace(0, 1, 33)
    partner = {a: b for pair in mirrored_pairs(names) for a, b in (pair, pair[::-1])}
    for label, name in enumerate(names):
        # Mirroring turns right into left, and clockwise into anticlockwise.
        mirrored = MOTIONS[name](time) * np.array([[-1], [1], [1], [-1]])
        other = MOTIONS[names[partner.get(label, label)]](time)
        assert np.allclose(mirrored - mirrored[:, :1], other - other[:, :1]), name


def test_folders_and_lists_find_them(tmp_path: Path) -> None:
    for name in ("left", "right", "up"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "videos" / name / "1.mp4").write_bytes(b"x")
    assert read_folder(tmp_path / "videos", (), "train").flip_pairs == ((0, 1),)
    listed = tmp_path / "train.txt"
    listed.write_text("a.mp4 turn right\nb.mp4 turn_right\nc.mp4 turn_left\n")
    assert read_list(tmp_path, [listed], "train").flip_pairs == ((1, 2),)
