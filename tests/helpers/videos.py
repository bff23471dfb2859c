"""Video files made by a formula: frame i shows the number i, so what was decoded can be checked exactly.

    write_numbered_video(path, num_frames=30)
    [read_number(frame) for frame in frames] == list(range(30))

The number is a 4 x 4 grid of dark and bright blocks over the whole frame (most significant bit first, row by row),
which survives scaling and lossy compression. Cropping and flipping change it, as they should.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GRID = 4  # blocks a side: 16 bits, numbers below 65,536
DARK, BRIGHT = 40, 210


def draw_number(number: int, size: tuple[int, int]) -> np.ndarray:
    """The frame that shows `number`: uint8 (H, W, 3), for `size` = (width, height)."""
    if not 0 <= number < 1 << GRID * GRID:
        raise ValueError(f"number {number}: 0 <= number < {1 << GRID * GRID}")
    width, height = size
    bits = [(number >> shift) & 1 for shift in reversed(range(GRID * GRID))]
    blocks = np.where(np.array(bits).reshape(GRID, GRID), BRIGHT, DARK).astype(np.uint8)
    rows = np.arange(height) * GRID // height
    columns = np.arange(width) * GRID // width
    return np.repeat(blocks[rows][:, columns, None], 3, axis=2)


def read_number(frame: np.ndarray) -> int:
    """The number that a whole frame (H, W, 3) shows; any size from 8 x 8 up, uint8 or float in the same range."""
    height, width = frame.shape[:2]
    number = 0
    for row in range(GRID):
        for column in range(GRID):
            y, x = (2 * row + 1) * height // (2 * GRID), (2 * column + 1) * width // (2 * GRID)
            dy, dx = max(1, height // (8 * GRID)), max(1, width // (8 * GRID))
            block = frame[y - dy : y + dy, x - dx : x + dx]
            number = 2 * number + int(block.mean() > (DARK + BRIGHT) / 2)
    return number


def write_numbered_video(
    path: Path,
    num_frames: int,
    fps: Fraction | int = 25,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    gop: int = 250,
    b_frames: int = 0,
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
    audio: bool = False,
    first_number: int = 0,
    options: dict[str, str] | None = None,
    noise: int = 0,
) -> Path:
    """Writes a video of `num_frames` frames of `size` = (width, height); the suffix of `path` chooses the container.

    `gop` is the distance of keyframes (1: all-intra); `pts`, in units of 1/1000 s, makes the frame rate variable;
    `audio` adds a track of silence; `noise` is added to the pixels, up to this value, so that the file gets as large as
    one of a camera. Returns `path`.
    """
    dice = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {"libx264": {"preset": "veryfast", "crf": "18", "x264-params": "scenecut=0:open-gop=0"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=defaults.get(codec, {}) | (options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        context = stream.codec_context
        context.thread_count = 1
        context.max_b_frames = b_frames
        if pixel_aspect is not None:
            context.sample_aspect_ratio = pixel_aspect
        if codec not in ("libx264", "libx265"):
            context.bit_rate = 2_000_000
        if pts is not None:
            context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index in range(num_frames):
            picture = draw_number(first_number + index, size)
            if noise:
                picture = picture + dice.integers(0, noise, picture.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = index if pts is None else pts[index]
            frame.time_base = 1 / Fraction(fps) if pts is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _add_silence(container, sound, float(num_frames / Fraction(fps)))
    return path


def rotate_mp4(path: Path, degrees: int) -> Path:
    """Marks an MP4 as to be shown turned clockwise by `degrees` (0, 90, 180, 270), as phones do; rewrites it in place.

    The video track's header ends with a 3 x 3 matrix of 16.16 fixed-point numbers, just before its width and height.
    """
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    data[header + 40 : header + 76] = matrix
    path.write_bytes(data)
    return path


def _add_silence(container, stream, seconds: float) -> None:
    for start in range(0, int(seconds * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        frame.pts = start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
