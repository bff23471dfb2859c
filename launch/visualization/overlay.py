"""Draws predictions on videos: every frame of the original, streamed, with a panel of the top classes; no sound."""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont

from sharding.errors import MediaError, UserError
from sharding.files import replacing
from sharding.video.decode import rgb_picture
from sharding.video.encode import FrameChoice, Write, encode_frames
from sharding.video.source import open_source

SUFFIXES = (".mp4", ".mkv", ".mov")
"""Of files that can be written."""

SMALLEST_SIDE = 240
"""Videos with a shorter side are enlarged by an integer factor, so that the text can be read."""

# RGBA; drawing replaces what was drawn before, and with it its opacity.
_BACKGROUND, _TRACK = (14, 17, 23, 190), (44, 49, 60, 190)
_FIRST, _OTHERS = (34, 139, 99, 235), (74, 105, 150, 225)
_TEXT = (255, 255, 255, 255)


def plan_overlays(videos: Sequence[Path], overlay: Path) -> list[Path]:
    """Return the files to write for `videos`: `overlay` itself for one, files named after them in the folder for more.

    Two videos of one name become name.mp4 and name-2.mp4.

    Raises:
        UserError: a file for more than one video, or for a video that would be overwritten.
    """
    if overlay.suffix.lower() in SUFFIXES and not overlay.is_dir():
        if len(videos) > 1:
            raise UserError(f"--overlay {overlay}: one file cannot hold {len(videos)} videos; give a folder")
        targets = [overlay]
    elif overlay.suffix and not overlay.is_dir():
        raise UserError(f"--overlay {overlay}: use a name that ends in {', '.join(SUFFIXES)}, or a folder")
    else:
        targets = []
        for video in videos:
            names = itertools.chain([video.stem], (f"{video.stem}-{number}" for number in itertools.count(2)))
            targets.append(next(target for name in names if (target := overlay / f"{name}.mp4") not in targets))
    inputs = set(map(os.path.realpath, videos))
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise UserError(f"--overlay {overlay}: would overwrite {target}; give another name or folder")
    return targets


def draw_overlays(rows: Sequence[dict], videos: Sequence[Path], targets: Sequence[Path]) -> None:
    """Draw the predictions of each row on its video, over time if it has windows, and add to the row where, or why
    not."""
    for row, video, target in zip(rows, videos, targets):
        if "error" in row or not row.get("windows", row.get("predictions")):
            continue
        try:
            overlay_predictions(video, target, predictions_over_time(row))
            row["overlay"] = str(target)
        except MediaError as error:
            row["error"] = f"{target} was not written: {error}"


Predictions = Sequence[tuple[str, float]]
"""(class, probability), the most probable first."""


def predictions_over_time(row: dict) -> Callable[[float], Predictions]:
    """Return what is predicted at a second of a row's video: at any the same, or that of the window whose middle is
    nearest; nothing where no window is seen."""

    def listed(of: dict) -> Predictions:
        return [(each["class"], each["probability"]) for each in of["predictions"]]

    if "windows" not in row:
        always = listed(row)
        return lambda seconds: always
    windows = row["windows"]
    middles = np.array([(window["start"] + window["end"]) / 2 for window in windows])
    lists = [listed(window) for window in windows]

    def at(seconds: float) -> Predictions:
        if not lists:
            return []
        after = int(np.searchsorted(middles, seconds))
        nearest = min((n for n in (after - 1, after) if 0 <= n < len(lists)), key=lambda n: abs(middles[n] - seconds))
        seen = windows[nearest]["start"] <= seconds < windows[nearest]["end"] or nearest == len(lists) - 1
        return lists[nearest] if seen else []

    return at


def overlay_predictions(video: Path, target: Path, predictions: Predictions | Callable[[float], Predictions]) -> None:
    """Write `video` again, as H.264 at a steady rate, upright, with square pixels, the predictions drawn on each frame.

    Args:
        predictions: drawn are those for which there is space; or what gives those of a second of the video.

    Raises:
        MediaError: the video cannot be decoded, or the result not be encoded.
    """

    always = [] if callable(predictions) else predictions
    predictions_at = predictions if callable(predictions) else lambda seconds: always

    @contextmanager
    def open_writer(size: tuple[int, int], fps: Fraction) -> Iterator[Write]:
        factor = math.ceil(SMALLEST_SIDE / min(size))
        size = (size[0] * factor, size[1] * factor)
        stamps = _Stamps(size, times, predictions_at)
        with av.open(str(temporary), "w") as output:
            stream = output.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "20"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_range = int(Colorspace.ITU601), int(ColorRange.MPEG)

            def write(frame, place: int) -> None:
                picture = rgb_picture(frame).repeat(factor, axis=0).repeat(factor, axis=1)
                stamps(picture, place)
                stamped = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
                )
                stamped.pts, stamped.time_base = place, 1 / fps
                output.mux(stream.encode(stamped))

            yield write
            output.mux(stream.encode(None))

    with replacing(target) as temporary, open_source(video) as source:
        times = source.times()
        encode_frames(source, FrameChoice(None, None), "rgb24", open_writer)


def draw_panel(size: tuple[int, int], predictions: Sequence[tuple[str, float]]) -> tuple[Image.Image, tuple[int, int]]:
    """Return the panel for frames of `size` (width, height), RGBA, and its place (left, top) in them, at the bottom
    left.

    A row for each class: its name, its probability, and a bar as long as that. As many rows as fit into two fifths of
    the height. Both sides of the frames are at least SMALLEST_SIDE.
    """
    width, height = size
    text_height = round(min(width, height) / 23)
    row_height, gap, margin = round(1.45 * text_height), max(1, text_height // 6), text_height // 2
    predictions = predictions[: (height * 2 // 5 - 2 * margin) // (row_height + gap)]
    font = ImageFont.load_default(text_height)
    shares = [f"{probability:.0%}" if probability >= 0.995 else f"{probability:.1%}" for _, probability in predictions]
    share_width = max(font.getlength(share) for share in shares)
    widest = max(font.getlength(name) for name, _ in predictions)
    row_width = int(min(max(widest + share_width + 4 * margin, 12 * text_height), width - 4 * margin))
    panel = Image.new("RGBA", (row_width + 2 * margin, len(predictions) * (row_height + gap) - gap + 2 * margin))
    draw = ImageDraw.Draw(panel)
    draw.rounded_rectangle((0, 0, panel.width - 1, panel.height - 1), margin, fill=_BACKGROUND)
    for row, ((name, probability), share) in enumerate(zip(predictions, shares)):
        top = margin + row * (row_height + gap)
        middle, right = top + row_height / 2, margin + row_width - 1
        draw.rectangle((margin, top, right, top + row_height - 1), fill=_TRACK)
        if (end := margin + round(probability * (row_width - 1))) > margin:
            draw.rectangle((margin, top, end, top + row_height - 1), fill=_OTHERS if row else _FIRST)
        width = row_width - share_width - 3 * margin
        draw.text((2 * margin, middle), _shorten(name, font, width), _TEXT, font, anchor="lm")
        draw.text((right - margin, middle), share, _TEXT, font, anchor="rm")
    return panel, (margin, height - panel.height - margin)


class _Stamps:
    """Lays over each picture the panel of its time."""

    def __init__(self, size: tuple[int, int], times: np.ndarray, predictions: Callable[[float], Predictions]):
        self.size, self.times, self.predictions = size, times, predictions
        self.drawn: Predictions = []
        self.stamp: _Stamp | None = None

    def __call__(self, picture: np.ndarray, place: int) -> None:
        """Change `picture` (H, W, 3) uint8, the frame of that number."""
        predictions = self.predictions(float(self.times[min(place, len(self.times) - 1)]))
        if predictions is not self.drawn:
            self.drawn = predictions
            self.stamp = _Stamp(*draw_panel(self.size, predictions)) if predictions else None
        if self.stamp is not None:
            self.stamp(picture)


class _Stamp:
    """Lays the panel over pictures."""

    def __init__(self, panel: Image.Image, place: tuple[int, int]) -> None:
        left, top = place
        self.window = np.s_[top : top + panel.height, left : left + panel.width]
        pixels = np.asarray(panel).astype(np.uint16)
        opacity = pixels[..., 3:]
        self.light, self.rest = pixels[..., :3] * opacity + 127, 255 - opacity

    def __call__(self, picture: np.ndarray) -> None:
        """Change `picture` (H, W, 3) uint8."""
        picture[self.window] = (picture[self.window] * self.rest + self.light) // 255


def _shorten(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return `name`, cut to `width` pixels and ended by dots if it is longer."""
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "…") > width:
        name = name[:-1]
    return name.rstrip() + "…"
