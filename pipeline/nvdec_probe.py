"""Whether NVDEC works on this machine, found out in another process: a decoder that fails can abort the one it is in.

    probe_nvdec(0)    # NvdecProbe(works=False, reason="libnvcuvid.so.1 cannot be loaded ...", remedy="start the ...")

The process makes a small clip, has DALI decode it by NVDEC, and compares the frames with what the clip shows.
"""

import ctypes
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import av
import numpy as np
import torch

from pipeline.nvdec import MAX_SIZE, MIN_SIZE, check_delivered, wanted_stream
from sharding.modules import module_command, module_environment

_LIBRARY = "libnvcuvid.so.1"
_CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
_MARK = "NVDEC probe: "
_TIMEOUT_SECONDS = 120.0
_H264, _CHROMA_420 = 4, 1  # cudaVideoCodec and cudaVideoChromaFormat of cuviddec.h
_CLIP_SIZE = (90, 70)  # no multiples of 16, as most videos
_CLIP_LEVELS = (60, 90, 120, 150, 180, 210)
_TOLERANCE = 8.0  # grey levels: of encoding, and of another conversion of colours


@dataclass(frozen=True)
class NvdecProbe:
    """What was found."""

    works: bool
    reason: str = ""
    """Why it does not work."""
    remedy: str = ""
    """What to do about that, if it is known."""
    num_engines: int = 0
    min_size: tuple[int, int] = MIN_SIZE
    max_size: tuple[int, int] = MAX_SIZE
    """Limits on (width, height) of H.264."""

    @classmethod
    def from_json(cls, text: str) -> "NvdecProbe":
        """Return what was written by `json.dumps(asdict(...))`."""
        values = json.loads(text)
        return cls(**values | {name: tuple(values[name]) for name in ("min_size", "max_size")})


@dataclass(frozen=True)
class DecoderCaps:
    """What the driver says of its H.264 decoder."""

    status: int
    is_supported: bool
    num_engines: int
    min_size: tuple[int, int]
    max_size: tuple[int, int]


@cache
def probe_nvdec(device_index: int) -> NvdecProbe:
    """Return whether NVDEC works on a GPU; it is found out once in the life of this process."""
    return run_probe((*module_command("pipeline.nvdec_probe"), str(device_index)))


def run_probe(command: Sequence[str], timeout_seconds: float = _TIMEOUT_SECONDS) -> NvdecProbe:
    """Run a command that prints a probe's result, and return that, or how the command failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            env=module_environment(),
            timeout=timeout_seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _failed(f"a trial of it did not end within {timeout_seconds:.0f} s")
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return NvdecProbe.from_json(line.removeprefix(_MARK))
    words = (done.stderr.strip() or "it printed nothing").splitlines()[-1]
    code = done.returncode
    ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return _failed(f"a trial of it ended {ended}: {' '.join(words.split())}")


def examine(
    load_library: Callable[[], ctypes.CDLL],
    ask_caps: Callable[[ctypes.CDLL], DecoderCaps],
    decode: Callable[[bytes], np.ndarray],
) -> NvdecProbe:
    """Try the library, what the driver says of the decoder, and a clip, one after the other.

    Args:
        load_library: loads libnvcuvid, or raises OSError.
        ask_caps: asks it what it decodes.
        decode: the frames (F, H, W, 3) of a video.
    """
    try:
        library = load_library()
    except OSError as error:
        return _failed(f"{_LIBRARY} cannot be loaded ({error})")
    caps = ask_caps(library)
    if caps.status:
        return _failed(f"the driver does not say what it decodes (CUDA error {caps.status})")
    if not caps.is_supported or not caps.num_engines:
        return NvdecProbe(
            False,
            "this GPU has no video decoder, as most MIG slices",
            "use the GPU undivided, or a MIG slice with media engines (+me)",
        )
    try:
        frames = decode(probe_clip())
        check_delivered(len(frames), len(_CLIP_LEVELS))
    except Exception as error:  # whatever DALI or the driver raises is the result
        return _failed(f"it cannot decode a clip of {_CLIP_SIZE[0]} x {_CLIP_SIZE[1]} pixels: {_core_of(error)}")
    shown = frames[:, : _CLIP_SIZE[1], : _CLIP_SIZE[0]].mean((1, 2, 3))
    if np.abs(shown - _CLIP_LEVELS).max() > _TOLERANCE:
        return _failed(
            f"it decodes a clip of grey levels {_CLIP_LEVELS} as {tuple(shown.round().astype(int).tolist())}"
        )
    return NvdecProbe(True, "", "", caps.num_engines, caps.min_size, caps.max_size)


def probe_clip() -> bytes:
    """Return a stream as NVDEC is handed them; frame i is of the grey level _CLIP_LEVELS[i] all over."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "keyint=1:bframes=0", "crf": "10"})
        stream.width, stream.height = _CLIP_SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for level in _CLIP_LEVELS:
            for _ in range(2):  # of two neighbours, one is wanted
                picture = np.full((_CLIP_SIZE[1], _CLIP_SIZE[0], 3), level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        parameters = bytes(container.streams.video[0].codec_context.extradata)
    return wanted_stream(packets[::2], parameters)


def ask_caps(library: ctypes.CDLL, device_index: int) -> DecoderCaps:
    """Ask the driver about H.264, 4:2:0, 8 bits, by a CUVIDDECODECAPS of cuviddec.h."""
    torch.zeros(1, device=torch.device("cuda", device_index))  # makes the context in which it is asked
    caps = (ctypes.c_ubyte * 256)()
    ctypes.c_int.from_buffer(caps, 0).value = _H264
    ctypes.c_int.from_buffer(caps, 4).value = _CHROMA_420
    status = int(library.cuvidGetDecoderCaps(ctypes.byref(caps)))
    max_size = ctypes.c_uint.from_buffer(caps, 28).value, ctypes.c_uint.from_buffer(caps, 32).value
    min_size = ctypes.c_ushort.from_buffer(caps, 40).value, ctypes.c_ushort.from_buffer(caps, 42).value
    return DecoderCaps(status, bool(caps[24]), caps[25], min_size, max_size)


def _failed(reason: str) -> NvdecProbe:
    """Return that it does not work; the remedy is the container's, unless that has all it needs."""
    given = os.environ.get(_CAPABILITIES)
    needed = f"start the container with {_CAPABILITIES}=compute,utility,video"
    if given is None:
        return NvdecProbe(False, reason, f"if this is a container, {needed}")
    if not {"video", "all"} & set(given.split(",")):
        return NvdecProbe(False, f"{reason}; {_CAPABILITIES}={given} lacks video", needed)
    return NvdecProbe(False, reason)


def _core_of(error: Exception) -> str:
    """Return DALI's message without the path through the graph, in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = words.rpartition("encountered: ")[2]
    return words.partition(" C++ context:")[0].partition(" Current pipeline object")[0]


def main(device_index: int) -> None:
    """Print the result for `run_probe`."""
    from pipeline.dali_graph import decode_by_nvdec  # seconds of start-up, which only this process needs

    found = examine(
        lambda: ctypes.CDLL(_LIBRARY),
        lambda library: ask_caps(library, device_index),
        lambda media: decode_by_nvdec(media, device_index),
    )
    print(f"\n{_MARK}{json.dumps(asdict(found))}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
