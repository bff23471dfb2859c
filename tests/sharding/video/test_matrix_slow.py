"""Containers x codecs x what happens to files, against the ffmpeg program: every frame equal, or refused with a reason.

A cell that is neither is a frame lost or changed in silence; those that cannot be known are listed as such.
"""

import hashlib
import shutil
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from sharding.errors import MediaError
from sharding.video.encode import FrameChoice, encode_frames
from sharding.video.orientation import orientation_of
from sharding.video.source import open_source
from tests.helpers.odd_videos import MIRRORED, set_display_matrix
from tests.helpers.videos import rotate_mp4

pytestmark = pytest.mark.slow

CODECS = {
    "h264": ["libx264", "-bf", "2", "-g", "25"],
    "h264_open": ["libx264", "-bf", "2", "-x264-params", "open-gop=1:keyint=25"],
    "hevc": ["libx265", "-x265-params", "log-level=none:keyint=25:open-gop=1"],
    "vp8": ["libvpx", "-b:v", "500k", "-g", "25", "-auto-alt-ref", "1", "-lag-in-frames", "16"],
    "vp9": ["libvpx-vp9", "-b:v", "500k", "-g", "25", "-cpu-used", "8"],
    "av1": ["libsvtav1", "-preset", "12", "-g", "25"],
    "mpeg4": ["mpeg4", "-bf", "2", "-g", "25", "-b:v", "1M"],
    "mpeg2": ["mpeg2video", "-bf", "2", "-g", "25", "-b:v", "2M"],
    "mjpeg": ["mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "4"],
    "wmv2": ["wmv2", "-g", "25", "-b:v", "1M"],
    "theora": ["libtheora", "-g", "25", "-b:v", "1M"],
}
CONTAINERS = {
    "mp4": ["h264", "h264_open", "hevc", "vp9", "av1", "mpeg4", "mpeg2", "mjpeg"],
    "mov": ["h264", "hevc", "mpeg4", "mjpeg"],
    "frag.mp4": ["h264", "hevc", "av1"],
    "mkv": ["h264", "h264_open", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2", "mjpeg", "theora"],
    "pipe.mkv": ["h264", "vp9"],
    "webm": ["vp8", "vp9", "av1"],
    "avi": ["h264", "mpeg4", "mpeg2", "mjpeg", "wmv2"],
    "flv": ["h264"],
    "ts": ["h264", "h264_open", "hevc", "mpeg2"],
    "mpg": ["mpeg2"],
    "wmv": ["wmv2"],
    "ogv": ["theora"],
    "h264": ["h264"],
    "hevc": ["hevc"],
}
VARIANTS = ["whole", "cut", "negative", "offset", "joined", "damaged", "rotated", "mirrored", "segment"]
# Differences that neither the file nor its decoder reports, or that are older ffmpegs' alone.
KNOWN_LIMITS = {
    ("hevc", "hevc", "cut"): "a raw stream has no length",
    ("wmv", "wmv2", "damaged"): "packets of ASF that are lacking are not counted",
    **{(name, "mjpeg", "damaged"): "the decoder of JPEG reports nothing" for name in ("mp4", "mov", "mkv", "avi")},
    ("mp4", "mjpeg", "segment"): "ffmpeg 5 shows frames before the beginning of the edit list",
    ("mov", "mjpeg", "segment"): "ffmpeg 5 shows frames before the beginning of the edit list",
    ("mp4", "av1", "negative"): "ffmpeg 5 shows frames before the beginning of the edit list",
    ("mp4", "av1", "segment"): "ffmpeg 5 shows frames before the beginning of the edit list",
    ("frag.mp4", "av1", "negative"): "ffmpeg 5 shows frames before the beginning of the edit list",
    ("frag.mp4", "av1", "segment"): "ffmpeg 5 shows frames before the beginning of the edit list",
}


def run(*arguments: object) -> bytes:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout


@pytest.fixture(scope="module")
def encoders() -> str:
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg program here to make files with and to compare with")
    return run("-encoders").decode()


def make(folder: Path, container: str, codec: str) -> Path:
    """Four seconds of a moving pattern."""
    path = folder / f"whole.{container}"
    source = ["-f", "lavfi", "-i", "testsrc2=size=160x128:rate=25:duration=4", "-c:v", *CODECS[codec]]
    if container == "pipe.mkv":
        path.write_bytes(run(*source, "-f", "matroska", "-"))
    else:
        run(*source, *(["-movflags", "frag_keyframe+empty_moov"] if container == "frag.mp4" else []), path)
    return path


def vary(whole: Path, container: str, variant: str) -> Path | None:
    """The file of a variant; None where the container cannot have it."""
    path = whole.with_name(f"{variant}.{container}")
    data = whole.read_bytes()
    if variant == "whole":
        return whole
    if variant in ("rotated", "mirrored"):
        if not container.endswith(("mp4", "mov")):
            return None
        shutil.copy(whole, path)
        return rotate_mp4(path, 90) if variant == "rotated" else set_display_matrix(path, MIRRORED["vflip"])
    if variant == "cut":
        path.write_bytes(data[: len(data) * 6 // 10])
    elif variant == "damaged":
        path.write_bytes(data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :])
    elif variant == "joined":
        path.write_bytes(data + data)
    else:
        options = {
            "negative": ["-i", whole, "-c", "copy", "-avoid_negative_ts", "disabled", "-output_ts_offset", "-1.2"],
            "offset": ["-i", whole, "-c", "copy", "-output_ts_offset", "7.5"],
            "segment": ["-ss", "1.3", "-i", whole, "-t", "2", "-c", "copy"],
        }[variant]
        try:
            run(*options, path)
        except subprocess.CalledProcessError:
            return None  # this container cannot be copied to, or from its middle
    return path if path.exists() and path.stat().st_size else None


def by_ffmpeg(path: Path) -> list[str]:
    """The MD5 of every frame as ffmpeg decodes it, not turned."""
    try:
        lines = run("-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-")
    except subprocess.CalledProcessError as error:
        lines = error.stdout
    return [line.split(",")[-1].strip() for line in lines.decode().splitlines() if line and line[0] != "#"]


def by_us(path: Path) -> list[str]:
    """The same of every frame that packing would store. Raises MediaError where it would store none."""
    with open_source(path) as source:
        found = []

        @contextmanager
        def open_writer(size, fps):
            yield lambda frame, place: None

        encode_frames(source, FrameChoice(None, None), "yuv420p", open_writer)
        for _, frame in source.frames():
            orientation_of(frame)
            found.append(hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
        return found


def outcome(container: str, codec: str, variant: str, path: Path) -> str:
    try:
        ours = by_us(path)
    except MediaError as error:
        return "refused" if variant in ("cut", "damaged", "joined") else f"refused: {error}"
    theirs = by_ffmpeg(path)
    if ours == theirs:
        return "equal" if variant != "cut" else "equal to what is left"
    return f"{len(ours)} frames, ffmpeg has {len(theirs)}; {len(set(theirs) - set(ours))} of those are not among ours"


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_frame_or_a_reason(encoders, tmp_path, container, capsys):
    counts: Counter[str] = Counter()
    wrong = {}
    for codec in CONTAINERS[container]:
        if f" {CODECS[codec][0]} " not in encoders:
            counts["no encoder"] += len(VARIANTS)
            continue
        whole = make(tmp_path, container, codec)
        for variant in VARIANTS:
            path = vary(whole, container, variant)
            result = outcome(container, codec, variant, path) if path else "not possible"
            if result not in ("equal", "refused", "not possible"):
                if (container, codec, variant) in KNOWN_LIMITS:
                    result = "known limit"
                else:
                    wrong[codec, variant] = result
            counts[result if result in ("equal", "refused", "not possible", "known limit") else "wrong"] += 1
    with capsys.disabled():
        print(f"\n{container}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    assert not wrong
