"""The motion dataset: ordinary video files in class folders, in which no single frame reveals the class.

An object of random shape, size and colour moves over a background; how it moves is the class. Its state (x, y, log
radius, angle) lives on a torus: what leaves the frame on the left comes back on the right, what outgrows the largest
radius comes back at the smallest. The state at the start is uniform on that torus and the path is added to it, so at
every frame, the first and the last included, the state is uniform whatever the class. Without coming back that is
impossible: what grows throughout is larger at the end than at the start.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import joblib
import numpy as np
from tqdm import tqdm

from sharding.cores import available_cores
from sharding.errors import UserError, check_minimum
from sharding.files import new_folder
from sharding.synthetic.motion_paths import MOTIONS

_OUTLINE_STEPS = 512  # a power of two: angles wrap with a bit mask
_LONGEST_SPIKE = 1.7  # longest radius of an outline in units of its rms radius
_LARGEST_RADIUS = 0.29  # times _LONGEST_SPIKE this stays under half the frame, where an object would meet itself
_TEXTURE_SIDE = 64
_STATES, _PIXELS = 0, 1  # separate random streams, so that the look never shifts the states


@dataclass(frozen=True)
class MotionConfig:
    """What to draw and where to write it. Every video is a pure function of this, `split` and its number."""

    out: Path
    """Folder to write; class folders appear in it (in OUT/SPLIT if a split is named) once all videos are written."""
    split: str = ""
    """Name of a folder under OUT, also part of the seed: train and val of one seed share no video. Empty: none."""
    num_videos: int = 1600
    """Videos in all; video i is of class i modulo the number of classes."""
    num_classes: int = 8
    """The first so many of left, right, up, down, grow, shrink, turn_clockwise, turn_anticlockwise, four diagonals,
    four ways to turn while growing or shrinking, eight there-and-back, four of changing speed, two zig-zags, two
    circles: 32 in all. With num_sizes above 1, so many motions times sizes."""
    num_sizes: int = 1
    """Above 1 the size of the object is part of the class: `radius` is cut, along its logarithm, into so many equal
    ranges, and each motion within each of them is a class: left_size1 (the smallest), left_size2, right_size1, ..."""
    num_frames: int = 32
    """Frames of a video."""
    size: int = 64
    """Width and height in pixels, even."""
    fps: int = 15
    """Frames per second written in the files."""
    seed: int = 0
    """Seed of everything random."""
    radius: tuple[float, float] = (0.09, 0.28)
    """Smallest and largest radius of the objects (of a disc of equal area), as a fraction of the size."""
    travel: tuple[float, float] = (0.6, 0.8)
    """Minimum and maximum way of a moving object over the video, as a fraction of the size."""
    growth: tuple[float, float] = (2.0, 2.5)
    """Minimum and maximum factor by which a growing or shrinking object changes over the video."""
    turn_degrees: tuple[float, float] = (120.0, 200.0)
    """Minimum and maximum turn over the video, in degrees."""
    contrast: Literal["bright", "either"] = "bright"
    """bright: objects are brighter than the background; either: brighter or darker, which is far harder to learn."""
    texture: Literal["none", "plain", "rich"] = "none"
    """none: flat colours; plain: a softly shaded background; rich: background and objects are textured."""
    num_distractors: int = 0
    """Further objects that rest behind the moving one."""
    camera_jitter: int = 0
    """The picture shakes by up to so many pixels each way, differently in each frame."""
    noise: float = 5.0
    """Standard deviation of the noise added to each frame, in grey levels of 255."""
    workers: int = field(default_factory=available_cores)
    """Processes that render at the same time. The files do not depend on it."""

    def __post_init__(self) -> None:
        check_minimum(self, 0, "seed", "num_distractors", "camera_jitter", "noise")
        check_minimum(self, 1, "num_videos", "num_sizes", "fps", "workers")
        check_minimum(self, 2, "num_classes", "num_frames")
        check_minimum(self, 16, "size")
        if self.num_classes % self.num_sizes:
            raise UserError(f"num_classes={self.num_classes}: must be a multiple of num_sizes={self.num_sizes}")
        if self.num_classes // self.num_sizes > len(MOTIONS):
            raise UserError(
                f"num_classes={self.num_classes}: there are {len(MOTIONS)} kinds of motion in num_sizes="
                f"{self.num_sizes}; ask for at most {len(MOTIONS) * self.num_sizes}"
            )
        if self.size % 2:
            raise UserError(f"size={self.size}: H.264 with 4:2:0 colour needs an even size; take {self.size + 1}")
        if self.split in (".", "..") or "/" in self.split or "\0" in self.split:
            raise UserError(f"split={self.split!r}: must be a plain folder name")
        for name, allowed in (("contrast", ("bright", "either")), ("texture", ("none", "plain", "rich"))):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)}: must be one of {', '.join(allowed)}")
        for name, greatest in (("radius", _LARGEST_RADIUS), ("travel", 4), ("growth", 16), ("turn_degrees", 1440)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= greatest:
                raise UserError(f"{name}={low},{high}: needs 0 < minimum <= maximum <= {greatest}")
        if self.growth[0] <= 1:
            raise UserError(f"growth={self.growth[0]},{self.growth[1]}: the minimum factor must be above 1")
        spanned = (self.radius[1] / self.radius[0]) ** (1 / self.num_sizes)
        if spanned < self.growth[1]:
            raise UserError(
                f"growth={self.growth[0]},{self.growth[1]}: radius={self.radius[0]},{self.radius[1]} in num_sizes="
                f"{self.num_sizes} spans only a factor of {spanned:.2f}; widen radius or lower growth"
            )

    @property
    def folder(self) -> Path:
        """Where the class folders are."""
        return self.out / self.split if self.split else self.out

    @property
    def class_names(self) -> list[str]:
        motions = list(MOTIONS)[: self.num_classes // self.num_sizes]
        if self.num_sizes == 1:
            return motions
        return [f"{motion}_size{size}" for motion in motions for size in range(1, self.num_sizes + 1)]


@dataclass(frozen=True)
class Trajectory:
    """What the moving object of one video does; arrays have one entry per frame (T)."""

    label: int
    """Class index in `MotionConfig.class_names`."""
    position: np.ndarray
    """(T, 2) float64: centre x, y (y down) as fractions of the size, in [0, 1)."""
    radius: np.ndarray
    """(T,) float64: radius of the disc of equal area, as a fraction of the size."""
    angle: np.ndarray
    """(T,) float64: clockwise turn in radians, in [0, 2 pi)."""


def _generator(config: MotionConfig, index: int, stream: int) -> np.random.Generator:
    entropy = [config.seed, index, stream, *config.split.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def sample_trajectory(config: MotionConfig, index: int) -> Trajectory:
    """Return the motion of video number `index`.

    Over videos of one class the state at any frame is uniform on the torus, whose radii are those of the class's range.
    """
    label = index % config.num_classes
    motion, size_range = divmod(label, config.num_sizes)
    path = list(MOTIONS.values())[motion](np.linspace(0, 1, config.num_frames))
    return follow_path(config, index, path, label, size_range)


def follow_path(config: MotionConfig, index: int, path: np.ndarray, label: int = 0, size_range: int = 0) -> Trajectory:
    """Return the motion of video number `index` along a path (4, T), such as a sum of those of `MOTIONS`."""
    random = _generator(config, index, _STATES)
    smallest, largest = config.radius
    travel, growth, turn = (random.uniform(*each) for each in (config.travel, config.growth, config.turn_degrees))
    octaves = math.log(largest / smallest) / config.num_sizes
    scale = np.array([travel, travel, math.log(growth) / octaves, turn / 360])
    right, down, size, angle = (random.uniform(size=(4, 1)) + scale[:, None] * path) % 1
    radius = smallest * np.exp(octaves * (size_range + size))
    return Trajectory(label, np.stack([right, down], axis=1), radius, 2 * math.pi * angle)


def render_video(config: MotionConfig, index: int, trajectory: Trajectory | None = None) -> Iterator[np.ndarray]:
    """Yield the frames of video number `index`, each (size, size, 3) uint8 RGB; along another trajectory, if given."""
    trajectory = trajectory or sample_trajectory(config, index)
    random = _generator(config, index, _PIXELS)
    scene = _background(config, random)
    background = scene.mean(axis=(0, 1))
    for _ in range(config.num_distractors):
        thing = _Thing(config, random, background)
        octaves = math.log(config.radius[1] / config.radius[0])
        radius = config.radius[0] * math.exp(octaves * random.uniform())
        scene = thing.paint(scene, random.uniform(size=2), radius, 2 * math.pi * random.uniform())
    thing = _Thing(config, random, background)
    for position, radius, angle in zip(trajectory.position, trajectory.radius, trajectory.angle):
        frame = thing.paint(scene, position, radius, angle)
        if config.camera_jitter:
            shift = random.integers(-config.camera_jitter, config.camera_jitter, size=2, endpoint=True)
            frame = np.roll(frame, shift, axis=(0, 1))
        if config.noise:
            frame = frame + config.noise * random.standard_normal((config.size, config.size, 1), dtype=np.float32)
        yield np.clip(np.rint(frame), 0, 255).astype(np.uint8)


class _Thing:
    """One object: its outline, colour and texture, to be painted in any state."""

    def __init__(self, config: MotionConfig, random: np.random.Generator, background: np.ndarray) -> None:
        self.outline = _random_outline(random)
        slope = (np.roll(self.outline, -1) - np.roll(self.outline, 1)) * _OUTLINE_STEPS / (4 * math.pi)
        # Distance to the edge, from distance along the ray: exact for straight edges.
        self.steepness = (1 / np.sqrt(1 + (slope / self.outline) ** 2)).astype(np.float32)
        self.colour = _object_colour(config, random, background)
        self.texture = _texture(_TEXTURE_SIDE, 0.7, random) if config.texture == "rich" else None

    def paint(self, scene: np.ndarray, position: np.ndarray, radius: float, angle: float) -> np.ndarray:
        """Return `scene` (H, W, 3) with the object drawn over it, antialiased, coming back on the opposite side."""
        side = scene.shape[0]
        pixels = np.arange(side, dtype=np.float32) + 0.5
        right, down = ((pixels - centre * side + side / 2) % side - side / 2 for centre in position)
        right, down = right[None, :], down[:, None]
        distance = np.hypot(right, down)
        direction = np.arctan2(down, right) - np.float32(angle)
        step = (direction * np.float32(_OUTLINE_STEPS / (2 * math.pi))).astype(np.int32) & (_OUTLINE_STEPS - 1)
        cover = np.clip((radius * side * self.outline[step] - distance) * self.steepness[step] + 0.5, 0, 1)[..., None]
        colour = self.colour
        if self.texture is not None:
            across = np.stack([distance * np.cos(direction), distance * np.sin(direction)])
            row, column = (across * (_TEXTURE_SIDE / 4 / (radius * side))).astype(np.int32) % _TEXTURE_SIDE
            colour = colour + 45 * self.texture[row, column][..., None]
        return scene + cover.astype(np.float32) * (colour - scene)


def _random_outline(random: np.random.Generator) -> np.ndarray:
    """Return a star-shaped polygon as its radius at _OUTLINE_STEPS angles, float32, of rms 1 (area of the unit disc).

    Drawn again until no turn between 45 and 315 degrees lays it over itself by more than 70 % (intersection over
    union), so that it shows which way it points.
    """
    angles = np.arange(_OUTLINE_STEPS) * (2 * math.pi / _OUTLINE_STEPS)
    turns = np.arange(_OUTLINE_STEPS // 8, _OUTLINE_STEPS // 2 + 1, 8)
    shifted = (np.arange(_OUTLINE_STEPS) + turns[:, None]) % _OUTLINE_STEPS
    while True:
        corners = int(random.integers(5, 9))
        at = (np.arange(corners) + random.uniform(-0.35, 0.35, corners)) * (2 * math.pi / corners)
        far = random.uniform(0.3, 1, corners)
        at, far = np.concatenate([at, at[:1] + 2 * math.pi]), np.concatenate([far, far[:1]])
        turned = at[0] + (angles - at[0]) % (2 * math.pi)
        edge = np.clip(np.searchsorted(at, turned, side="right") - 1, 0, corners - 1)
        near_at, near, next_at, next_far = at[edge], far[edge], at[edge + 1], far[edge + 1]
        # The point of the straight edge between two corners in direction `turned`.
        outline = near * next_far * np.sin(next_at - near_at)
        outline = outline / (near * np.sin(turned - near_at) + next_far * np.sin(next_at - turned))
        outline /= np.sqrt(np.mean(outline**2))
        squared = outline**2
        overlap = np.minimum(squared, squared[shifted]).sum(axis=1) / np.maximum(squared, squared[shifted]).sum(axis=1)
        if overlap.max() < 0.7 and outline.max() < _LONGEST_SPIKE:
            return outline.astype(np.float32)


def _background(config: MotionConfig, random: np.random.Generator) -> np.ndarray:
    colour = random.uniform(*((10, 90) if config.contrast == "bright" else (30, 225)), 3).astype(np.float32)
    scene = np.broadcast_to(colour, (config.size, config.size, 3)).copy()
    if config.texture == "plain":
        scene += 20 * _texture(config.size, 3, random)[..., None]
    elif config.texture == "rich":
        scene += 45 * _texture(config.size, 1, random)[..., None]
    return scene


def _object_colour(config: MotionConfig, random: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """Return a random colour with a grey level at least 60 from that of `background` (3,): 4:2:0 loses chroma alone."""
    if config.contrast == "bright":
        return random.uniform(150, 250, 3).astype(np.float32)
    grey = np.array([0.299, 0.587, 0.114])
    while True:
        colour = random.uniform(0, 255, 3)
        if abs(grey @ (colour - background)) > 60:
            return colour.astype(np.float32)


def _texture(side: int, exponent: float, random: np.random.Generator) -> np.ndarray:
    """Return noise (side, side), periodic, mean 0, variance 1; its amplitude falls as the frequency to `exponent`."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((side, side))) / frequency**exponent
    noise = np.fft.irfft2(spectrum, s=(side, side))
    return (noise / noise.std()).astype(np.float32)


def write_motion(config: MotionConfig) -> None:
    """Write CLASS/NUMBER.mp4 (H.264, no audio) under `config.folder`, which appears when all videos are written.

    Raises:
        UserError: the folder exists and is not empty.
    """
    folder = config.folder
    with new_folder(folder) as partial:
        for name in config.class_names:
            (partial / name).mkdir()
        parallel = joblib.Parallel(n_jobs=config.workers, return_as="generator_unordered")
        videos = parallel(joblib.delayed(_write_video)(config, index, partial) for index in range(config.num_videos))
        for _ in tqdm(videos, desc=str(folder), total=config.num_videos, unit="video", disable=None):
            pass


def _write_video(config: MotionConfig, index: int, folder: Path) -> None:
    path = folder / config.class_names[index % config.num_classes] / f"{index:06d}.mp4"
    write_frames(path, render_video(config, index), config.size, config.fps)


def write_frames(path: Path, frames: Iterable[np.ndarray], size: int, fps: int) -> None:
    """Write frames (size, size, 3) uint8 RGB as H.264."""
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        # The same bytes every time: one thread, and no macroblock tree, whose costs vary from run to run with B-frames.
        options = {"preset": "veryfast", "crf": "16", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
