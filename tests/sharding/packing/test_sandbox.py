"""A decoder that crashes, hangs or wants all memory costs one video; the next ones are encoded as if nothing was."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sharding.errors import MediaError
from sharding.packing.profiles import EncodedSample, ProfileSettings
from sharding.packing.sandbox import LIMITS, Limits, Request, Sandbox
from sharding.records import VideoRecord
from sharding.video.decode import decode_frames
from tests.helpers.videos import read_number, write_numbered_video


@pytest.fixture
def requests(tmp_path) -> list[Request]:
    for number in range(4):
        write_numbered_video(tmp_path / f"v{number}.mp4", 5, first_number=10 * number)
    records = [VideoRecord(f"k{number}", f"v{number}.mp4", "a") for number in range(4)]
    return [Request(tmp_path, record, ProfileSettings(), tmp_path / f"out-{record.key}") for record in records]


@pytest.fixture
def sandbox():
    box = Sandbox(Limits(seconds=20))
    yield box
    box.close()


def first_number(outcome: EncodedSample) -> int:
    return read_number(decode_frames(outcome.media, np.array([0]))[0])


def test_one_process_encodes_many_videos(sandbox, requests):
    processes = set()
    outcomes = []
    for outcome in sandbox.encode_all(requests):
        outcomes.append(first_number(outcome))
        processes.add(sandbox._process.pid)
    assert outcomes == [0, 10, 20, 30]
    assert len(processes) == 1


def test_the_greatest_limits_are_such_as_the_kernel_takes(requests):
    box = Sandbox(Limits(LIMITS["time_limit"][1], LIMITS["memory_limit"][1] * 2**30))
    assert [first_number(outcome) for outcome in box.encode_all(requests[:2])] == [0, 10]
    box.close()


def test_errors_come_back_as_they_were(sandbox, requests):
    (requests[1].videos / "v1.mp4").write_bytes(b"nothing")
    (requests[2].videos / "v2.mp4").unlink()
    outcomes = list(sandbox.encode_all(requests))
    assert [getattr(outcome, "kind", "well") for outcome in outcomes] == ["well", "open", "missing", "well"]


def strike_the_next(sandbox: Sandbox, how: signal.Signals) -> None:
    """Lets `how` reach the process, which must have been started, after it was sent its next video and before it can
    be done with that: it is stopped in the meantime."""
    send, process = sandbox._send, sandbox._process.pid

    def send_and_strike(request: Request) -> float:
        os.kill(process, signal.SIGSTOP)
        while _state(process) != "T":
            time.sleep(0.001)
        deadline = send(request)
        os.kill(process, how)
        if how is not signal.SIGSTOP:
            os.kill(process, signal.SIGCONT)
        del sandbox._send
        return deadline

    sandbox._send = send_and_strike


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_costs_one_video(sandbox, requests, how):
    outcomes = sandbox.encode_all(requests)
    assert first_number(next(outcomes)) == 0
    while not sandbox._received:  # until it has answered for the second video, and waits
        sandbox._received += os.read(sandbox._process.stdout.fileno(), 1 << 16)
    os.kill(sandbox._process.pid, how)
    sandbox._process.wait()
    assert [first_number(outcome) for outcome in outcomes] == [10, 20, 30]

    strike_the_next(sandbox, how)
    [failed] = sandbox.encode_all(requests[:1])
    assert isinstance(failed, MediaError)
    assert f"crashed ({how.name})" in failed.message
    assert [first_number(outcome) for outcome in sandbox.encode_all(requests)] == [0, 10, 20, 30]


def test_a_hang_costs_one_video(sandbox, requests):
    assert [first_number(outcome) for outcome in sandbox.encode_all(requests[:1])] == [0]
    sandbox.limits = Limits(seconds=1)
    strike_the_next(sandbox, signal.SIGSTOP)
    [outcome] = sandbox.encode_all(requests[:1])
    assert isinstance(outcome, MediaError)
    assert "stopped after 1 s, the limit for it (--time-limit" in outcome.message
    sandbox.limits = Limits()
    assert [first_number(outcome) for outcome in sandbox.encode_all(requests)] == [0, 10, 20, 30]


def test_outcomes_that_nobody_took_are_not_mistaken(sandbox, requests):
    outcomes = sandbox.encode_all(requests)
    assert first_number(next(outcomes)) == 0
    assert [first_number(outcome) for outcome in sandbox.encode_all(requests[2:])] == [20, 30]


def test_a_video_that_wants_much_memory_fails_alone(tmp_path):
    write_numbered_video(tmp_path / "big.mp4", 4, size=(4000, 4000), options={"preset": "ultrafast"})
    write_numbered_video(tmp_path / "small.mp4", 4)
    settings = ProfileSettings()
    requests = [
        Request(tmp_path, VideoRecord(name, f"{name}.mp4", "a"), settings, tmp_path / name)
        for name in ("small", "big", "small")
    ]
    sandbox = Sandbox(Limits(memory_bytes=60 << 20))
    outcomes = list(sandbox.encode_all(requests))
    sandbox.close()
    assert isinstance(outcomes[0], EncodedSample)
    assert isinstance(outcomes[2], EncodedSample)
    assert isinstance(outcomes[1], MediaError)
    assert "GB of --memory-limit" in outcomes[1].message


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    path = write_numbered_video(tmp_path / "huge.avi", 3, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 8 + 4  # width and height of the BITMAPINFOHEADER
    data[place : place + 8] = struct.pack("<ii", 60_000, 60_000)
    path.write_bytes(data)
    sandbox = Sandbox(Limits())
    [outcome] = sandbox.encode_all(
        [Request(tmp_path, VideoRecord("k", "huge.avi", "a"), ProfileSettings(), tmp_path / "out")]
    )
    sandbox.close()
    assert isinstance(outcome, MediaError) or outcome.width <= 96


def test_no_process_outlives_its_worker(requests):
    code = (
        "import sys, time; from sharding.packing.sandbox import *\n"
        "box = Sandbox(Limits()); next(box.encode_all([Request.from_json(sys.argv[1])]))\n"
        "print(box._process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, requests[0].to_json()]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(worker.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    worker.kill()
    worker.communicate()
    deadline = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(process: int) -> bool:
    return _state(process) not in ("Z", None)


def _state(process: int) -> str | None:
    """The letter in /proc: T is stopped, Z has ended; None if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return None


def test_modules_of_the_folder_that_it_is_started_in_are_not_taken(sandbox, requests, tmp_path, monkeypatch):
    for name in ("numpy", "av", "sharding"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the folder')\n")
    monkeypatch.chdir(tmp_path)
    assert [first_number(outcome) for outcome in sandbox.encode_all(requests[:2])] == [0, 10]
