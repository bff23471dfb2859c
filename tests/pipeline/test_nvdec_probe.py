"""The trial of NVDEC: missing libraries, GPUs without a decoder, decoders that fail, err or abort."""

import io
import re
import sys

import av
import numpy as np
import pytest
import torch

from pipeline.nvdec_probe import DecoderCaps, NvdecProbe, examine, probe_clip, run_probe

CAPS = DecoderCaps(0, True, 7, (48, 16), (4096, 4096))
DALI_WORDS = """Critical error in pipeline:
Error in MIXED operator `nvidia.dali.fn.decoders.video`,
which was used in the pipeline definition with the following traceback:

  File "/somewhere/dali_graph.py", line 165, in _decode
    frames = fn.decoders.video(inputs["media"], device="mixed", frames=inputs["frames"])

encountered:

CUDA driver API error CUDA_ERROR_INVALID_VALUE (1):
invalid argument
Current pipeline object is no longer valid."""


@pytest.fixture(autouse=True)
def capabilities(monkeypatch):
    monkeypatch.setenv("NVIDIA_DRIVER_CAPABILITIES", "compute,utility,video")


def decode(media: bytes) -> np.ndarray:
    """What a decoder that works gives, at the coded size."""
    with av.open(io.BytesIO(media)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def tried(load=lambda: None, caps=CAPS, decoder=decode) -> NvdecProbe:
    return examine(load, lambda library: caps, decoder)


def raising(error: Exception):
    def raise_it(*_):
        raise error

    return raise_it


def test_a_decoder_that_works():
    assert decode(probe_clip()).shape == (6, 80, 96, 3)
    assert tried() == NvdecProbe(True, num_engines=7, min_size=(48, 16), max_size=(4096, 4096))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"load": raising(OSError("no such file"))}, r"libnvcuvid\.so\.1 cannot be loaded \(no such file\)"),
        ({"caps": DecoderCaps(801, False, 0, (0, 0), (0, 0))}, r"does not say what it decodes \(CUDA error 801\)"),
        ({"caps": DecoderCaps(0, True, 0, (0, 0), (0, 0))}, "no video decoder, as most MIG slices"),
        ({"caps": DecoderCaps(0, False, 7, (0, 0), (0, 0))}, "no video decoder, as most MIG slices"),
        (
            {"decoder": raising(RuntimeError(DALI_WORDS))},
            r"90 x 70 pixels: CUDA driver API error CUDA_ERROR_INVALID_VALUE \(1\): invalid argument$",
        ),
        ({"decoder": raising(MemoryError())}, "MemoryError"),
        ({"decoder": lambda media: decode(media)[:5]}, "asked for 6 frames and returned 5"),
        ({"decoder": lambda media: decode(media)[::-1]}, r"\(60, 90, .* as \(209, 180, "),
        ({"decoder": lambda media: np.zeros_like(decode(media))}, r"as \(0, 0, 0, 0, 0, 0\)"),
    ],
)
def test_why_it_does_not_work(how, words):
    found = tried(**how)
    assert not found.works
    assert re.search(words, found.reason), found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("given", "reason", "remedy"),
    [
        (None, "lost$", "^if this is a container, start the container with NVIDIA_DRIVER_CAPABILITIES=.*video"),
        ("compute,graphics,utility", "lost; NVIDIA_DRIVER_CAPABILITIES=.* lacks video$", "^start the container with"),
        ("all", "lost$", "^$"),
        ("compute,video", "lost$", "^$"),
    ],
)
def test_the_remedy_is_the_containers_if_it_lacks_video(monkeypatch, given, reason, remedy):
    if given is None:
        monkeypatch.delenv("NVIDIA_DRIVER_CAPABILITIES")
    else:
        monkeypatch.setenv("NVIDIA_DRIVER_CAPABILITIES", given)
    found = tried(decoder=raising(RuntimeError("lost")))
    assert re.search(reason, found.reason)
    assert re.search(remedy, found.remedy)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.abort()", "a trial of it ended by SIGABRT: it printed nothing"),
        ("import sys; print('a\\nlast  words', file=sys.stderr); sys.exit(3)", "with exit code 3: last words"),
        ("print('something else')", "with exit code 0: it printed nothing"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_trial_that_goes_wrong_costs_its_own_process(code, words):
    found = run_probe(python(code), timeout_seconds=1 if "sleep" in code else 60)
    assert not found.works
    assert words in found.reason


def test_a_result_counts_however_the_process_ends():
    """Drivers abort while they are shut down."""
    result = 'NVDEC probe: {"works": true, "num_engines": 7, "min_size": [48, 16], "max_size": [8192, 8192]}'
    found = run_probe(python(f"import os; print('noise'); print({result!r}, flush=True); os.abort()"))
    assert found == NvdecProbe(True, num_engines=7, max_size=(8192, 8192))


def test_the_real_trial_ends_with_a_reason_where_there_is_no_gpu(monkeypatch, tmp_path):
    """From another folder too."""
    if torch.cuda.is_available():
        pytest.skip("tests/gpu has this")
    monkeypatch.chdir(tmp_path)
    found = run_probe((sys.executable, "-m", "pipeline.nvdec_probe", "0"))
    assert not found.works
    assert "libnvcuvid" in found.reason
