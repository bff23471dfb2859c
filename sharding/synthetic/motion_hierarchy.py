"""The motion dataset on three levels, in the layout of FineGym: long videos whose parts are motions in a hierarchy.

A video holds events, an event elements, one after the other; between them the picture is black. An element is a motion
of `sharding.synthetic.motion`, drawn afresh each time, so that no single frame reveals it. Kinds of motion make the
sets, kinds of sets the four events:

    OUT/videos/train-00000.mp4 ...
    OUT/annotations/finegym_annotation_info.json    when each element begins and ends
                    gym_train_element.txt, gym_val_element.txt    elements of a split and their labels
                    gym_categories.txt, set_categories.txt    names of elements and sets
"""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from sharding.cores import available_cores
from sharding.errors import check_minimum
from sharding.files import new_folder
from sharding.synthetic.motion import MotionConfig, render_video, write_frames
from sharding.synthetic.motion_paths import MOTIONS

# Event -> set -> elements; the events are FineGym's, of which there are no others.
HIERARCHY: dict[str, dict[str, tuple[str, ...]]] = {
    "VT": {
        "straight": ("left", "right", "up", "down"),
        "diagonal": ("up_left", "down_right", "up_right", "down_left"),
    },
    "FX": {
        "size": ("grow", "shrink"),
        "turn": ("turn_clockwise", "turn_anticlockwise"),
        "turn and size": (
            *("turn_clockwise_growing", "turn_anticlockwise_shrinking"),
            *("turn_anticlockwise_growing", "turn_clockwise_shrinking"),
        ),
    },
    "BB": {
        "there and back": ("left_then_right", "right_then_left", "up_then_down", "down_then_up"),
        "change and back": (
            *("grow_then_shrink", "shrink_then_grow"),
            *("turn_clockwise_and_back", "turn_anticlockwise_and_back"),
        ),
    },
    "UB": {
        "changing speed": ("left_speeding_up", "right_slowing_down", "right_speeding_up", "left_slowing_down"),
        "zigzag": ("zigzag_left", "zigzag_right"),
        "circle": ("circle_clockwise", "circle_anticlockwise"),
    },
}
FPS = 20  # its times are exact with three decimals
PAUSE = 4  # black frames before and after each element
_DRAWING = 2  # a random stream next to those of sharding.synthetic.motion


@dataclass(frozen=True)
class MotionGymConfig:
    """What to draw and where to write it. Every video is a pure function of this, its split and its number."""

    out: Path
    """Folder to write; it appears once all videos are written."""
    train_videos: int = 200
    """Long videos of the split train."""
    val_videos: int = 50
    """Long videos of the split val."""
    events_per_video: int = 2
    """Events of a video."""
    elements_per_event: int = 4
    """Elements of an event."""
    elements_per_set: int = 4
    """The first so many motions of each set are used: with 4 there are 32 elements in 10 sets, with 2 there are 20."""
    num_frames: int = 24
    """Frames of an element, at 20 a second."""
    size: int = 64
    """Width and height in pixels, even."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = field(default_factory=available_cores)
    """Processes that render at the same time. The files do not depend on it."""

    def __post_init__(self) -> None:
        counts = ("train_videos", "val_videos", "events_per_video", "elements_per_event", "elements_per_set")
        check_minimum(self, 1, *counts, "workers")
        check_minimum(self, FPS, "num_frames")  # one second: keys distinguish elements by full seconds
        self.motion("train")

    def motion(self, split: str) -> MotionConfig:
        """Return how the elements of a split are drawn."""
        return MotionConfig(
            self.out, split, num_classes=len(MOTIONS), num_frames=self.num_frames, size=self.size, seed=self.seed
        )

    @property
    def elements(self) -> list[tuple[str, int, str]]:
        """(event, number of the set, motion) of every class, in the order of their labels."""
        sets = [(event, motions) for event, of_event in HIERARCHY.items() for motions in of_event.values()]
        return [
            (event, number, motion)
            for number, (event, motions) in enumerate(sets, 1)
            for motion in motions[: self.elements_per_set]
        ]


@dataclass(frozen=True)
class Element:
    """One element of a video."""

    label: int
    event: int
    """Number of its event in the video."""
    first_frame: int
    """In the video; its last frame is `first_frame` + `num_frames` - 1."""


def plan_video(config: MotionGymConfig, split: str, number: int) -> list[Element]:
    """Draw the elements of a video: each event draws one of the four, each element one of that event's."""
    entropy = [config.seed, number, _DRAWING, *split.encode()]
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
    names = list(HIERARCHY)
    labels = {event: [i for i, element in enumerate(config.elements) if element[0] == event] for event in names}
    elements, frame = [], 0
    for event in range(config.events_per_video):
        kind = names[random.integers(len(names))]
        for _ in range(config.elements_per_event):
            frame += PAUSE
            elements.append(Element(int(random.choice(labels[kind])), event, frame))
            frame += config.num_frames + PAUSE
    return elements


def write_motion_gym(config: MotionGymConfig) -> None:
    """Write videos and annotation files into `config.out`, which appears when all of it is written.

    Raises:
        UserError: the folder exists and is not empty.
    """
    numbers = [("train", i) for i in range(config.train_videos)] + [("val", i) for i in range(config.val_videos)]
    with new_folder(config.out) as partial:
        videos, annotations = partial / "videos", partial / "annotations"
        for folder in (videos, annotations):
            folder.mkdir()
        parallel = joblib.Parallel(n_jobs=config.workers, return_as="generator_unordered")
        done = parallel(joblib.delayed(_write_video)(config, split, number, videos) for split, number in numbers)
        for _ in tqdm(done, desc=str(config.out), total=len(numbers), unit="video", disable=None):
            pass
        _write_annotations(config, numbers, annotations)


def _name(split: str, number: int) -> str:
    return f"{split}-{number:05d}"


def _write_video(config: MotionGymConfig, split: str, number: int, folder: Path) -> None:
    write_frames(folder / f"{_name(split, number)}.mp4", _frames(config, split, number), config.size, FPS)


def _frames(config: MotionGymConfig, split: str, number: int) -> Iterator[np.ndarray]:
    elements, kinds, motions = plan_video(config, split, number), config.elements, list(MOTIONS)
    black = np.zeros((config.size, config.size, 3), np.uint8)
    for place, element in enumerate(elements):
        # Numbers of motion videos that are of this class, different for every element of the split.
        index = (number * len(elements) + place) * len(motions) + motions.index(kinds[element.label][2])
        yield from [black] * PAUSE
        yield from render_video(config.motion(split), index)
        yield from [black] * PAUSE


def _write_annotations(config: MotionGymConfig, numbers: list[tuple[str, int]], folder: Path) -> None:
    times: dict[str, dict[str, dict]] = {}
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for split, number in numbers:
        video = _name(split, number)
        plan = plan_video(config, split, number)
        for event in range(config.events_per_video):
            elements = [element for element in plan if element.event == event]
            begin, end = elements[0].first_frame - PAUSE, elements[-1].first_frame + config.num_frames + PAUSE
            event_key, segments = f"E_{_seconds('06', begin, end)}", {}
            kind = config.elements[elements[0].label][0]
            for element in elements:
                first = element.first_frame - begin
                key = f"A_{_seconds('04', first, first + config.num_frames)}"
                segments[key] = _segment(first, config.num_frames, stages=3 if kind == "VT" else 1)
                lines[split].append(f"{video}_{event_key}_{key} {element.label}")
            entry = {"event": list(HIERARCHY).index(kind) + 1, "segments": segments}
            times.setdefault(video, {})[event_key] = entry | {"timestamps": [[begin / FPS, end / FPS]]}
    (folder / "finegym_annotation_info.json").write_text(json.dumps(times, indent=1) + "\n")
    for split, of_split in lines.items():
        (folder / f"gym_{split}_element.txt").write_text("".join(f"{line}\n" for line in of_split))
    _write_categories(config, folder)


def _segment(first: int, num_frames: int, stages: int) -> dict:
    """Return the times of an element in its event; a vault has three stages, one after the other."""
    cuts = [first + num_frames * stage // stages for stage in range(stages + 1)]
    return {"stages": stages, "timestamps": [[begin / FPS, end / FPS] for begin, end in itertools.pairwise(cuts)]}


def _seconds(width: str, first: int, end: int) -> str:
    return f"{first // FPS:{width}d}_{math.ceil(end / FPS):{width}d}"


def _write_categories(config: MotionGymConfig, folder: Path) -> None:
    elements = [
        f"Clabel: {label}; set: {of_set}; Glabel: {label}; ({event}) {motion.replace('_', ' ')}\n"
        for label, (event, of_set, motion) in enumerate(config.elements)
    ]
    (folder / "gym_categories.txt").write_text("".join(elements))
    names = [f"{event}-{name}" for event, of_event in HIERARCHY.items() for name in of_event]
    (folder / "set_categories.txt").write_text("".join(f"set: {i}; {name}\n" for i, name in enumerate(names, 1)))
