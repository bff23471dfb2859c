"""A long video, window by window: our single pass against decoding each window by itself.

All are given the same file, windows, frames, scaling, crop, normalisation, network, and number of threads.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from launch.benchmarks.options import LongOptions
from launch.benchmarks.report import conditions, table
from launch.inference.long_video import OpenedVideo, WindowReader
from launch.inference.windows import Window, WindowOptions
from launch.training.forward import compute_logits
from model import ModelConfig, build_model, fuse_batch_norm
from pipeline.config import DataConfig
from sharding.errors import UserError

_BATCH_SIZE = 8
_FPS, _CLIP_SECONDS = 30, 10
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_PACKING = {"profile": "dense", "max_frames": 64, "short_side": 256, "quality": 23}

ReadWindow = Callable[[Path, np.ndarray, float], torch.Tensor]
"""(file, frame numbers, seconds at which the first is shown) -> (T, 3, H, W) uint8"""


@dataclass(frozen=True)
class _Measured:
    seconds: float
    cpu_seconds: float
    """Of all threads: on a busy machine more telling than the time that passed."""
    video_seconds: float
    peak_mebibytes: float

    @property
    def speed(self) -> float:
        """How many times real time."""
        return self.video_seconds / self.seconds


def long(options: LongOptions) -> None:
    """Print how many times real time ours and the others need, loading alone and with the network."""
    unknown = [name for name in options.compare_with if name not in WINDOW_READERS]
    if unknown:
        raise UserError(f"--compare-with {unknown[0]}: known are {', '.join(WINDOW_READERS)}")
    with tempfile.TemporaryDirectory(prefix="vpsn-") as temporary:
        path = (options.scratch or Path(temporary)) / "long.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_long_video(path, options)
        data = DataConfig(num_segments=options.num_segments, crop_size=options.crop_size, short_side=options.short_side)
        print(conditions())
        net = fuse_batch_norm(build_model(ModelConfig("tsn", options.depth, 400, options.num_segments)).eval())
        windows = WindowOptions(options.window, options.stride)
        reader = WindowReader(_PACKING, data, torch.device("cpu"), windows, _BATCH_SIZE)
        video = reader.open(path)
        for name in options.compare_with:  # what is lacking is said before minutes are spent
            _measure_other(name, path, video, video.windows[:1], data, options, None)
        rows = [_row("one pass, ours", *[_measure_ours(path, data, windows, each) for each in (None, net)])]
        for name in options.compare_with:
            part = [each for each in video.windows if each.end <= 60 * options.compare_minutes] or video.windows[:1]
            measured = [_measure_other(name, path, video, part, data, options, each) for each in (None, net)]
            rows.append(_row(f"each window by {name}", *measured))
    size = f"{options.width} x {options.height}, {options.minutes:g} min, windows of {options.window:g} s"
    print(f"\n{size} every {options.stride:g} s, {options.num_segments} frames of {options.crop_size} pixels")
    head = ["", "loading, x real time", "with ResNet", "CPU s loading a minute", "peak MiB"]
    print(table(head, rows))


def _row(name: str, loading: _Measured, complete: _Measured) -> list[object]:
    cpu = 60 * loading.cpu_seconds / loading.video_seconds
    speeds = [f"{each.speed:.1f}" for each in (loading, complete)]
    return [name, *speeds, f"{cpu:.2f}", f"{complete.peak_mebibytes:,.0f}"]


def _measure_ours(path: Path, data: DataConfig, windows: WindowOptions, net: torch.nn.Module | None) -> _Measured:
    began, began_cpu, peak = time.perf_counter(), time.process_time(), 0.0
    reader = WindowReader(_PACKING, data, torch.device("cpu"), windows, _BATCH_SIZE)
    video = reader.open(path)
    for batch in reader.read(video):
        if net is not None:
            compute_logits(net, batch.clips, "bf16")
        peak = max(peak, resident_mebibytes())
    return _Measured(time.perf_counter() - began, time.process_time() - began_cpu, video.duration, peak)


def _measure_other(
    name: str,
    path: Path,
    video: OpenedVideo,
    windows: Sequence[Window],
    data: DataConfig,
    options: LongOptions,
    net: torch.nn.Module | None,
) -> _Measured:
    read, times, peak = WINDOW_READERS[name], video.timeline.times, 0.0

    def load(window: Window) -> torch.Tensor:
        frames = read(path, window.frames, float(times[window.frames[0]]))
        frames = transforms.resize(frames, [data.short_side], antialias=True)
        frames = transforms.center_crop(frames, [data.crop_size, data.crop_size])
        return transforms.normalize(transforms.to_dtype(frames, torch.float32, scale=True), _MEAN, _STD)

    began, began_cpu = time.perf_counter(), time.process_time()
    try:
        with ThreadPoolExecutor(options.threads) as pool:
            for clips in _in_batches(pool.map(load, windows)):
                if net is not None:
                    compute_logits(net, torch.stack(clips), "bf16")
                peak = max(peak, resident_mebibytes())
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec raises the last where it finds no FFmpeg
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--compare-with {name}: {reason}; pip install 'vpsn[benchmark]'") from error
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return _Measured(seconds, cpu_seconds, len(windows) * options.stride, peak)


def _in_batches(clips: Iterator[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    while batch := list(itertools.islice(clips, _BATCH_SIZE)):
        yield batch


def read_with_pyav(path: Path, numbers: np.ndarray, start: float) -> torch.Tensor:
    """Seek to the keyframe before, and decode up to the last frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(start / stream.time_base), stream=stream, backward=True)
        wanted, found = set(numbers.tolist()), {}
        for frame in container.decode(stream):
            number = round(float(frame.time or 0) * _FPS)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= numbers[-1]:
                break
    return torch.from_numpy(np.stack([found[number] for number in numbers.tolist()])).permute(0, 3, 1, 2)


def read_with_decord(path: Path, numbers: np.ndarray, start: float) -> torch.Tensor:
    import decord  # pyright: ignore[reportMissingImports]  # of the extra `benchmark`

    frames = decord.VideoReader(str(path), num_threads=1).get_batch(numbers.tolist()).asnumpy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def read_with_torchcodec(path: Path, numbers: np.ndarray, start: float) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder.get_frames_at(numbers.tolist()).data


WINDOW_READERS: dict[str, ReadWindow] = {
    "pyav": read_with_pyav,
    "decord": read_with_decord,
    "torchcodec": read_with_torchcodec,
}


def write_long_video(path: Path, options: LongOptions) -> None:
    """Encode a clip once, as H.264 with x264's defaults, and repeat its packets up to the length."""
    clip = path.with_name("clip.mp4")
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("libx264", rate=_FPS)
        stream.width, stream.height, stream.pix_fmt = options.width, options.height, "yuv420p"
        for number, frame in enumerate(itertools.islice(_pictures(options), _FPS * _CLIP_SECONDS)):
            frame = frame.reformat(options.width, options.height, "yuv420p")
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, _FPS), 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        base = stream.time_base
        assert base is not None
        ticks = round(len(packets) / _FPS / base)
        for turn in range(max(1, round(60 * options.minutes * _FPS / len(packets)))):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = (packet.pts or 0) + turn * ticks, (packet.dts or 0) + turn * ticks
                again.time_base, again.stream, again.is_keyframe = base, copy, packet.is_keyframe
                output.mux(again)


def _pictures(options: LongOptions) -> Iterator[av.VideoFrame]:
    """Yield frames without end: those of the clip again and again, or of a scene that moves."""
    if options.video is not None:
        while True:
            with av.open(str(options.video)) as container:
                yield from container.decode(video=0)
    dice = np.random.default_rng(0)
    coarse = dice.integers(0, 256, (options.height // 8 + 8, options.width // 8 + 40, 3), np.uint8)
    scene = coarse.repeat(8, 0).repeat(8, 1)
    for number in itertools.count():
        left = 2 * (number % 150)
        picture = scene[: options.height, left : left + options.width]
        noise = dice.integers(0, 12, picture.shape, np.uint8)
        yield av.VideoFrame.from_ndarray(picture // 2 + noise, format="rgb24")


def resident_mebibytes() -> float:
    """Return the memory that this process occupies now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)
