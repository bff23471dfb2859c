"""Several motions at once: one object moves sideways, up or down, grows or shrinks, turns, and each is a label.

It is the object of the motion dataset, and its path is the sum of theirs, so that here, too, no single frame reveals a
label. Videos and lists come as mmaction2's multi-label lists do: OUT/videos, OUT/train.txt, OUT/val.txt.
"""

from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from sharding.cores import available_cores
from sharding.errors import UserError, check_minimum
from sharding.files import new_folder
from sharding.synthetic.motion import MotionConfig, follow_path, render_video, write_frames
from sharding.synthetic.motion_paths import MOTIONS

AXES = (("left", "right"), ("up", "down"), ("grow", "shrink"), ("turn_clockwise", "turn_anticlockwise"))
"""Motions of which a video shows one, the other, or none."""
_FPS = 15
_DRAWING = 3  # a random stream next to those of the other motion datasets


@dataclass(frozen=True)
class MotionMultilabelConfig:
    """What to draw and where to write it. Every video is a pure function of this, its split and its number."""

    out: Path
    """Folder to write; it appears once all videos are written."""
    train_videos: int = 800
    """Videos of the split train."""
    val_videos: int = 200
    """Videos of the split val."""
    num_axes: int = 4
    """The first so many pairs of left and right, up and down, grow and shrink, turn_clockwise and turn_anticlockwise:
    twice as many classes, and up to so many labels a video."""
    num_frames: int = 32
    """Frames of a video."""
    size: int = 64
    """Width and height in pixels, even."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = field(default_factory=available_cores)
    """Processes that render at the same time. The files do not depend on it."""

    def __post_init__(self) -> None:
        check_minimum(self, 1, "train_videos", "val_videos", "num_axes", "workers")
        if self.num_axes > len(AXES):
            raise UserError(f"num_axes={self.num_axes}: there are {len(AXES)}")
        self.motion("train")

    def motion(self, split: str) -> MotionConfig:
        """Return how the object of a split's videos is drawn."""
        return MotionConfig(self.out, split, num_frames=self.num_frames, size=self.size, seed=self.seed)

    @property
    def class_names(self) -> list[str]:
        return [name for axis in AXES[: self.num_axes] for name in axis]


def draw_labels(config: MotionMultilabelConfig, split: str, number: int) -> list[str]:
    """Return the motions of a video: of each axis one, the other or none, each as likely, but at least one in all."""
    entropy = [config.seed, number, _DRAWING, *split.encode()]
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
    while True:
        sides = random.integers(3, size=config.num_axes).tolist()
        if labels := [axis[side] for axis, side in zip(AXES, sides) if side < 2]:
            return labels


def write_motion_multilabel(config: MotionMultilabelConfig) -> None:
    """Write videos and lists into `config.out`, which appears when all of it is written.

    Raises:
        UserError: the folder exists and is not empty.
    """
    counts = {"train": config.train_videos, "val": config.val_videos}
    numbers = [(split, number) for split, count in counts.items() for number in range(count)]
    with new_folder(config.out) as partial:
        (partial / "videos").mkdir()
        parallel = joblib.Parallel(n_jobs=config.workers, return_as="generator_unordered")
        done = parallel(joblib.delayed(_write_video)(config, *video, partial / "videos") for video in numbers)
        for _ in tqdm(done, desc=str(config.out), total=len(numbers), unit="video", disable=None):
            pass
        for split, count in counts.items():
            lines = [f"{_name(split, i)} {' '.join(draw_labels(config, split, i))}\n" for i in range(count)]
            (partial / f"{split}.txt").write_text("".join(lines))
        (partial / "classes.txt").write_text("".join(f"{name}\n" for name in config.class_names))


def _name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.mp4"


def _write_video(config: MotionMultilabelConfig, split: str, number: int, folder: Path) -> None:
    motion, time = config.motion(split), np.linspace(0, 1, config.num_frames)
    path = np.sum([MOTIONS[name](time) for name in draw_labels(config, split, number)], axis=0)
    frames = render_video(motion, number, follow_path(motion, number, path))
    write_frames(folder / _name(split, number), frames, config.size, _FPS)
