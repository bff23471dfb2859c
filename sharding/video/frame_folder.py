"""A folder of numbered pictures as a video: which files are its frames, in what order, and what they hold."""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image, ImageOps

from sharding.errors import MediaError, UserError
from sharding.records import FOLDER_FPS
from sharding.video.container import VideoInfo, reason
from sharding.video.part import cut_part

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
_PLACE = re.compile(r"\{(?::0?([0-9]{0,2})d?)?\}")


class FrameFolder:
    """A folder of JPEG or PNG files, one a frame, in the order of the last number in their names."""

    def __init__(self, path: Path, template: str | None = None):
        self.path = path
        numbered = _in_order(_matching(path, template) if template else _numbered(path))
        self.files = [file for _, file in numbered]
        self._numbers = [number for number, _ in numbered]
        with open_picture(self.files[0], self.files[0].name, decode=False) as image:
            width, height = ImageOps.exif_transpose(image).size if _is_turned(image) else image.size
            kind = image.format
        assert kind is not None, "a picture that was read from a file has a format"
        self.info = VideoInfo(
            container="folder",
            codec={"JPEG": "mjpeg", "PNG": "png"}[kind],
            pixel_format="",
            width=width,
            height=height,
            pixel_aspect=Fraction(1),
            fps=FOLDER_FPS,
            num_frames_from_header=len(self.files),
            duration_seconds=len(self.files) / FOLDER_FPS,
        )

    @property
    def fps(self) -> float:
        return self.info.fps

    num_before_keyframe = 0
    seconds_lacking = 0.0
    """How much of the part [start, end) that was asked for is beyond the last frame."""

    def times(self, start: float | None = None, end: float | None = None) -> np.ndarray:
        """Return the seconds at which the frames of [start, end) are shown.

        Raises MediaError("decode") if frames before or in the part are not there, so that their places are not known.
        """
        times = np.arange(len(self.files)) / FOLDER_FPS
        if start is None and end is None:
            return times
        first, last = self._numbers[0], self._numbers[-1]
        if first > 1:
            raise MediaError(
                "decode", f"a part of it is wanted, and frames count from 0 or 1, but its first one there is {first}"
            )
        if last - first + 1 != len(self.files):
            lacking = last - first + 1 - len(self.files)
            raise MediaError(
                "decode", f"a part of it is wanted, but of its frames {first} to {last} there are {lacking} lacking"
            )
        part, self.seconds_lacking = cut_part(times, start, end, FOLDER_FPS, by_number=True)
        return part

    def chosen_files(self, start: float | None = None, end: float | None = None) -> list[Path]:
        """Return the files of [start, end)."""
        return [self.files[round(time * FOLDER_FPS)] for time in self.times(start, end)]

    def frames(self, start: float | None = None, end: float | None = None) -> Iterator[tuple[float, Any]]:
        for time, file in zip(self.times(start, end), self.chosen_files(start, end)):
            with open_picture(file, file.name) as image:
                if image.mode[0] in "IF":
                    raise MediaError("decode", f"{file.name}: a picture of mode {image.mode}, not of 8 bits a colour")
                picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            yield float(time), av.VideoFrame.from_ndarray(picture, format="rgb24")

    def check_number(self, expected: int, shown: int, interlaced: bool) -> None:
        """Raise MediaError("decode") if frames are lacking."""
        if shown != expected:
            raise MediaError("decode", f"{expected} pictures, but {shown} frames came out")


@contextmanager
def open_picture(
    file: Path | BinaryIO, name: str, decode: bool = True, formats: tuple[str, ...] = ("JPEG", "PNG")
) -> Iterator[Image.Image]:
    """Yield a picture, decoded completely if asked. Raises MediaError("decode"), with its name, if damaged or none."""
    try:
        with Image.open(file, formats=formats) as image:
            if decode:
                image.load()
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError("decode", f"{name}: {reason(error)}") from error


def open_jpeg(file: Path | BinaryIO, name: str, decode: bool = True) -> AbstractContextManager[Image.Image]:
    """Open as `open_picture` does, JPEG alone."""
    return open_picture(file, name, decode, formats=("JPEG",))


def check_template(template: str) -> str:
    """Return a template of frames' names; raise UserError if it is none.

    >>> check_template("img_{:05d}.jpg")
    'img_{:05d}.jpg'
    """
    places = _PLACE.findall(template)
    plain = _PLACE.sub("", template)
    suffix = Path(template).suffix.lower()
    if len(places) != 1 or "{" in plain or "}" in plain or "/" in template or suffix not in _FORMATS:
        raise UserError(
            f"--frame-template {template}: a file name with one place for the number, ending in "
            f"{', '.join(_FORMATS)}, is expected, such as img_{{:05d}}.jpg"
        )
    return template


def _matching(path: Path, template: str) -> list[tuple[int, Path]]:
    """Return the files whose names the template makes, with their numbers; others are not of the video."""
    before, place, after = _PLACE.split(template)
    width = int(place or 1)
    pattern = re.compile(rf"{re.escape(before)}([0-9]{{{width},}}){re.escape(after)}")
    numbered = [(int(match[1]), file) for file in path.iterdir() if (match := pattern.fullmatch(file.name))]
    if not numbered:
        raise MediaError("open", f"a directory without files named like {template}, not a video")
    return numbered


def _numbered(path: Path) -> list[tuple[int, Path]]:
    """Return all pictures of the folder with their numbers, -1 for one without.

    Raises MediaError("open") if they are of several kinds.
    """
    kinds: dict[tuple[str | None, str, str], list[tuple[int, Path]]] = defaultdict(list)
    for file in path.iterdir():
        if file.suffix.lower() not in _FORMATS or file.name[0] == ".":
            continue
        match = _NUMBERED.fullmatch(file.stem)
        before, number, after = match.groups() if match else (None, "-1", "")
        kinds[before, after, _FORMATS[file.suffix.lower()]].append((int(number), file))
    if not kinds:
        raise MediaError("open", "a directory without JPEG or PNG files, not a video")
    if len(kinds) > 1:
        templates = sorted(_template_of(min(files)[1]) for files in kinds.values())
        shown = ", ".join(templates[:5]) + (f" and {len(kinds) - 5} more" if len(kinds) > 5 else "")
        raise MediaError("open", f"a directory of several kinds of pictures: {shown}; choose one with --frame-template")
    return next(iter(kinds.values()))


def _template_of(file: Path) -> str:
    """Turn img_00001.jpg into img_{:05d}.jpg; return the name itself if there is no number in it."""
    match = _NUMBERED.fullmatch(file.stem)
    if not match:
        return file.name
    before, number, after = match.groups()
    return f"{before}{{:0{len(number)}d}}{after}{file.suffix}"


def _in_order(numbered: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """Return the files by their numbers, each of which may be there once; those without a number by name."""
    numbered = sorted(numbered, key=lambda pair: (pair[0], pair[1].name))
    for (number, file), (following, other) in pairwise(numbered):
        if number == following >= 0:
            raise MediaError("open", f"a directory with two pictures of number {number}: {file.name}, {other.name}")
    return numbered


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) != 1
