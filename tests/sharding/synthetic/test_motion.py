"""The motion videos: no single frame tells the class, two do; the files are what was asked for, to the byte."""

import dataclasses
import hashlib
import math
from pathlib import Path

import av
import numpy as np
import pytest

from sharding.errors import UserError
from sharding.synthetic.motion import MotionConfig, Trajectory, render_video, sample_trajectory, write_motion
from sharding.synthetic.motion_paths import MOTIONS

NUM_TRAJECTORIES = 4000


def torus(trajectories: list[Trajectory], config: MotionConfig) -> np.ndarray:
    """(N, T, 4): x, y, log radius and angle of every frame, each from 0 to 1 around its circle."""
    low, high = config.radius
    return np.stack(
        [
            np.column_stack(
                [t.position, np.log(t.radius / low) / math.log(high / low), t.angle / (2 * math.pi)],
            )
            for t in trajectories
        ]
    )


def centroid_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Trains a linear classifier (least squares on one-hot targets) on one half, returns its accuracy on the other."""
    half = len(features) // 2
    design = np.column_stack([np.ones(len(features)), features])
    weights, *_ = np.linalg.lstsq(design[:half], np.eye(labels.max() + 1)[labels[:half]], rcond=None)
    return float(np.mean((design[half:] @ weights).argmax(axis=1) == labels[half:]))


def single_frame_features(states: np.ndarray) -> np.ndarray:
    """(N, 4) -> powers, products and two harmonics of the state: what a frame shows of position, size and direction."""
    circle = np.concatenate([f(2 * math.pi * k * states) for k in (1, 2) for f in (np.sin, np.cos)], axis=1)
    products = np.stack([states[:, i] * states[:, j] for i in range(4) for j in range(i, 4)], axis=1)
    return np.concatenate([states, products, states**3, circle], axis=1)


def sampled(**options) -> tuple[np.ndarray, np.ndarray]:
    config = MotionConfig(out=Path("unused"), num_frames=9, **options)
    trajectories = [sample_trajectory(config, index) for index in range(NUM_TRAJECTORIES)]
    return torus(trajectories, config), np.array([t.label for t in trajectories])


def chance_bound(num_classes: int) -> float:
    """Four standard errors above chance for the half that is tested."""
    chance = 1 / num_classes
    return chance + 4 * math.sqrt(chance * (1 - chance) / (NUM_TRAJECTORIES / 2))


@pytest.mark.parametrize("num_classes", [8, 32])
@pytest.mark.parametrize("frame", [0, 4, 8])
def test_single_frame_does_not_tell_the_class(num_classes: int, frame: int) -> None:
    states, labels = sampled(num_classes=num_classes)
    accuracy = centroid_accuracy(single_frame_features(states[:, frame]), labels)
    assert accuracy < chance_bound(num_classes)


@pytest.mark.parametrize("frame", [0, 8])
def test_the_classifier_sees_a_leak(frame: int) -> None:
    """Paths centred on a common middle, without coming back at the edges, give the class away at the ends."""
    states, labels = sampled()
    steps = (np.diff(states, axis=1) + 0.5) % 1 - 0.5
    path = np.concatenate([np.zeros((len(states), 1, 4)), steps.cumsum(axis=1)], axis=1)
    leaking = 0.3 + 0.4 * states[:, 4:5] + path - path[:, 4:5]
    assert centroid_accuracy(single_frame_features(leaking[:, frame]), labels) > 2 * chance_bound(8)


def test_every_frame_is_uniform_on_the_torus() -> None:
    states, labels = sampled(num_classes=32)
    for frame in (0, 4, 8):
        for axis in range(4):
            counts, _ = np.histogram(states[:, frame, axis], bins=20, range=(0, 1))
            expected = len(labels) / 20
            assert np.sum((counts - expected) ** 2 / expected) < 50  # chi-squared, 19 degrees of freedom: p < 1e-4


def test_two_frames_tell_the_eight_classes() -> None:
    states, labels = sampled()
    step = (states[:, 4] - states[:, 0] + 0.5) % 1 - 0.5
    assert centroid_accuracy(step, labels) > 0.99


def test_directions_are_as_named() -> None:
    states, labels = sampled()
    step = ((np.diff(states, axis=1) + 0.5) % 1 - 0.5).sum(axis=1)
    config = MotionConfig(out=Path("unused"))
    expected = {
        "left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1), "grow": (2, 1), "shrink": (2, -1),
        "turn_clockwise": (3, 1), "turn_anticlockwise": (3, -1),
    }  # fmt: skip
    assert config.class_names == list(expected)
    for label, (axis, sign) in enumerate(expected.values()):
        moved = step[labels == label]
        low, high = (config.travel, config.travel, (0.5, 1), (120 / 360, 200 / 360))[axis]
        assert np.all((low <= sign * moved[:, axis]) & (sign * moved[:, axis] <= high))
        assert np.abs(np.delete(moved, axis, axis=1)).max() < 1e-9


def test_motions_are_distinct_and_closed_under_reversal() -> None:
    """Played backwards, each is another of the list or itself: the set of a video's frames tells no direction."""
    time = np.linspace(0, 1, 65)
    paths = {name: motion(time) - motion(time)[:, :1] for name, motion in MOTIONS.items()}
    for name, path in paths.items():
        assert [other for other in paths if np.allclose(paths[other], path)] == [name]
        backwards = path[:, ::-1] - path[:, -1:]
        assert sum(np.allclose(paths[other], backwards) for other in paths) == 1


def test_sizes_are_part_of_the_class_and_nothing_else_of_the_frame_is() -> None:
    """A frame tells the size of its class, for it is within its range, and not the motion."""
    config = {"num_sizes": 2, "num_classes": 16, "radius": (0.036, 0.288), "growth": (1.19, 2.8)}
    states, labels = sampled(**config)
    sizes = np.floor(2 * states[..., 2])
    assert np.array_equal(sizes, np.broadcast_to((labels % 2)[:, None], sizes.shape))
    for frame in (0, 8):
        for size in (0, 1):
            chosen = labels % 2 == size
            features = single_frame_features(states[chosen, frame])
            assert centroid_accuracy(features, labels[chosen] // 2) < 1 / 8 + 4 * math.sqrt(
                7 / 64 / (NUM_TRAJECTORIES / 4)
            )
    names = MotionConfig(out=Path("unused"), **config).class_names
    assert names[:4] == ["left_size1", "left_size2", "right_size1", "right_size2"]


@pytest.mark.parametrize("options", [{"num_sizes": 3}, {"num_sizes": 0}, {"num_sizes": 8, "growth": (1.2, 1.6)}])
def test_impossible_sizes_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match="num_sizes"):
        MotionConfig(out=Path("unused"), **options)


def object_mask(frame: np.ndarray) -> np.ndarray:
    """Pixels that are not of the commonest colour, in a video without noise or texture."""
    colours, counts = np.unique(frame.reshape(-1, 3), axis=0, return_counts=True)
    return np.any(frame != colours[counts.argmax()], axis=2)


@pytest.mark.parametrize("index", range(8))
def test_pixels_show_the_state(index: int) -> None:
    """The drawn area is that of the disc named by the radius, and turning the frame back shows the same object."""
    config = MotionConfig(out=Path("unused"), size=96, noise=0, num_frames=9)
    trajectory = sample_trajectory(config, index)
    frames = list(render_video(config, index))
    assert len(frames) == 9
    for frame, radius, position in zip(frames, trajectory.radius, trajectory.position):
        mask = object_mask(frame)
        assert mask.sum() == pytest.approx(math.pi * (96 * radius) ** 2, rel=0.25, abs=40)
        # The outline goes round the centre: the pixel there is the object's.
        assert mask[int(position[1] * 96), int(position[0] * 96)]


def test_clockwise_is_clockwise_on_the_screen() -> None:
    config = MotionConfig(out=Path("unused"), size=96, noise=0, num_frames=17, turn_degrees=(160, 160))
    label = config.class_names.index("turn_clockwise")
    for index in (label, label + 8):
        trajectory, frames = sample_trajectory(config, index), list(render_video(config, index))
        centre = (trajectory.position[0] * 96).astype(int)
        first, ninth = (np.roll(object_mask(f), (48 - centre[1], 48 - centre[0]), axis=(0, 1)) for f in frames[:9:8])
        # Eighty degrees on; np.rot90 turns anticlockwise, so minus one quarter is clockwise.
        overlap = {quarters: np.mean(np.rot90(first, quarters) & ninth) for quarters in (-1, 1)}
        assert overlap[-1] > overlap[1]


def test_files_are_ordinary_videos_and_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    config = MotionConfig(out=tmp_path / "one", split="train", num_videos=10, num_frames=12, size=32, fps=10, workers=1)
    write_motion(config)
    write_motion(dataclasses.replace(config, out=tmp_path / "two", workers=2))
    write_motion(dataclasses.replace(config, out=tmp_path / "other", seed=1))
    files = {}
    for out in ("one", "two", "other"):
        paths = sorted((tmp_path / out).rglob("*.*"))
        files[out] = {str(p.relative_to(tmp_path / out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    assert files["one"] == files["two"]
    assert not set(files["one"].values()) & set(files["other"].values())
    assert len(set(files["one"].values())) == 10
    assert "train/left/000008.mp4" in files["one"]
    with av.open(str(tmp_path / "one/train/left/000008.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 10)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    rendered = list(render_video(config, 8))
    assert len(decoded) == 12
    assert np.abs(np.stack(decoded).astype(int) - np.stack(rendered)).mean() < 8


def test_splits_of_one_seed_share_no_video() -> None:
    config = MotionConfig(out=Path("unused"), split="train")
    other = dataclasses.replace(config, split="val")
    assert not np.allclose(sample_trajectory(config, 0).position, sample_trajectory(other, 0).position)


def test_difficulty_changes_the_look_and_not_the_motion() -> None:
    easy = MotionConfig(out=Path("unused"))
    hard = dataclasses.replace(easy, texture="rich", num_distractors=3, camera_jitter=2, noise=12)
    assert np.array_equal(sample_trajectory(easy, 3).position, sample_trajectory(hard, 3).position)
    assert not np.array_equal(next(render_video(easy, 3)), next(render_video(hard, 3)))


def test_contrast_says_whether_objects_may_be_darker() -> None:
    """Grey level of the object's centre against the background's, in the first frames of forty videos."""

    def brighter(contrast: str) -> list[bool]:
        config = MotionConfig(out=Path("unused"), contrast=contrast, noise=0)
        found = []
        for index in range(40):
            frame = next(render_video(config, index)).astype(float) @ [0.299, 0.587, 0.114]
            x, y = (sample_trajectory(config, index).position[0] * config.size).astype(int)
            found.append(frame[y, x] > np.median(frame))
        return found

    assert all(brighter("bright"))
    assert 5 < sum(brighter("either")) < 35


def test_jitter_moves_the_whole_picture() -> None:
    config = MotionConfig(out=Path("unused"), noise=0, texture="plain", num_distractors=1)
    still, shaken = (list(render_video(dataclasses.replace(config, camera_jitter=j), 4)) for j in (0, 2))
    for a, b in zip(still, shaken):
        shifts = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
        assert any(np.array_equal(np.roll(a, shift, axis=(0, 1)), b) for shift in shifts)
    assert not np.array_equal(still, shaken)


def test_refuses_a_folder_that_holds_other_things(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_motion(MotionConfig(out=tmp_path, num_videos=2, size=16))
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_nothing_under_the_final_name_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "videos"
    config = MotionConfig(out=out, num_videos=4, size=16, num_frames=2, workers=1)

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("sharding.synthetic.motion._write_video", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_motion(config)
    assert not out.exists()
    write_motion(config)
    assert [p.name for p in tmp_path.iterdir()] == ["videos"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_videos": 0}, "num_videos=0: use 1 or more"),
        ({"num_classes": 33}, "num_classes=33: there are 32"),
        ({"size": 33}, "size=33: .* take 34"),
        ({"split": "../x"}, "split='../x'"),
        ({"radius": (0.2, 0.4)}, "radius=0.2,0.4"),
        ({"travel": (0.8, 0.2)}, "travel=0.8,0.2"),
        ({"growth": (0.5, 2)}, "growth=0.5,2: .* above 1"),
        ({"growth": (2, 4)}, "widen radius or lower growth"),
        ({"noise": -1}, "noise=-1"),
        ({"workers": 0}, "workers=0: use 1 or more"),
        ({"texture": "wood"}, "texture=wood"),
        ({"contrast": "dark"}, "contrast=dark: must be one of bright, either"),
    ],
)
def test_bad_options_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        MotionConfig(out=Path("unused"), **options)
    assert "\n" not in str(raised.value)
