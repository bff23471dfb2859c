"""Encodes videos in a separate process, so that a decoder that crashes, hangs or wants all memory costs one video.

A worker keeps one such process over many videos, gives it the next one while it still writes the last, and starts
another when it had to be stopped. Requests and replies are lines of JSON.

    for outcome in thread_sandbox(limits).encode_all(requests):
        ...    # an EncodedSample, or the MediaError that says why there is none
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import MediaError
from sharding.memory import used_memory
from sharding.modules import module_command, module_environment
from sharding.packing.profiles import EncodedSample, ProfileSettings, encode_sample
from sharding.records import VideoRecord

Outcome = EncodedSample | MediaError
"""What became of a video: it is encoded, or this is why not."""

LIMITS = {"time_limit": (1, 10**9), "memory_limit": (0.01, 1 << 20)}
"""Options: the smallest and the greatest number of seconds and GB that the kernel takes and somebody may want."""

_PR_SET_PDEATHSIG = 1
_LARGEST_PICTURE_BYTES = 32 << 20  # of 4000 x 4000 pixels and more; allocations that are likely to fail


@dataclass(frozen=True)
class Limits:
    """What one video may cost. They shape which videos fail, but not the bytes of those that do not."""

    seconds: float = 120.0
    """Time for a video; one more second is added for each MB of its file."""
    memory_bytes: int = 4 << 30
    """Memory of the encoding process, beyond what it needs at its start."""


@dataclass(frozen=True)
class Request:
    """One video to encode into the file `target`."""

    videos: Path
    record: VideoRecord
    settings: ProfileSettings
    target: Path

    def to_json(self) -> str:
        values = {"videos": str(self.videos), "target": str(self.target), "settings": asdict(self.settings)}
        return json.dumps(values | {"record": asdict(self.record)})

    @classmethod
    def from_json(cls, text: str) -> "Request":
        values = json.loads(text)
        record, settings = VideoRecord(**values["record"]), ProfileSettings(**values["settings"])
        return cls(Path(values["videos"]), record, settings, Path(values["target"]))


class Sandbox:
    """One encoding process, started when first needed."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._process: subprocess.Popen | None = None
        self._received = b""
        self._busy = False
        """Whether a request was sent whose reply was not read."""

    def encode_all(self, requests: Iterable[Request | Outcome]) -> Generator[Outcome, None, None]:
        """Yield the outcome of each request, in order. While the caller works on one, the next is being encoded.

        An outcome among the requests is passed on in its place. Raises OSError if the disk is full.
        """
        if self._busy:  # somebody did not want his last outcomes; they must not be taken for ours
            self.close()
        waiting = None
        for request in requests:
            outcome = self._outcome(*waiting) if waiting else None
            waiting = (request, self._send(request) if isinstance(request, Request) else 0.0)
            if outcome is not None:
                yield outcome
        if waiting:
            yield self._outcome(*waiting)

    def _outcome(self, request: Request | Outcome, deadline: float) -> Outcome:
        return self._receive(request, deadline) if isinstance(request, Request) else request

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process, self._received, self._busy = None, b"", False

    def interrupt(self) -> None:
        """Let what is being encoded fail at once; for other threads than the one that waits for it."""
        process = self._process
        if process is not None:
            process.kill()

    def _send(self, request: Request) -> float:
        """Send a request; return when the video must be done (time.monotonic)."""
        for _ in range(2):
            if self._process is None:
                command = [*module_command("sharding.packing.sandbox"), str(self.limits.memory_bytes)]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=module_environment()
                )
            requests = self._process.stdin
            assert requests is not None
            try:
                requests.write(request.to_json().encode() + b"\n")
                requests.flush()
                self._busy = True
                break
            except BrokenPipeError:  # it died after its last reply
                self.close()
        return time.monotonic() + self._seconds(request)

    def _receive(self, request: Request, deadline: float) -> Outcome:
        if self._process is None:
            return MediaError("decode", "the process that is to decode it dies as soon as it starts")
        reply = self._read_line(deadline)
        if reply is None:
            self.close()
            return MediaError(
                "decode",
                f"stopped after {self._seconds(request):.0f} s, the limit for it (--time-limit, and 1 s for each MB)",
            )
        if not reply:
            code = self._process.wait()
            self.close()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return MediaError("decode", f"the process that decoded it crashed ({name})")
        self._busy = False
        values = json.loads(reply)
        if "errno" in values:
            raise OSError(values["errno"], os.strerror(values["errno"]))
        if "memory" in values:
            self.close()
            limit = self.limits.memory_bytes / 2**30
            return MediaError("decode", f"{values['memory']}: it came to the {limit:.3g} GB of --memory-limit")
        return outcome_from_values(values)

    def _read_line(self, deadline: float) -> bytes | None:
        """Return a line; empty if the process has died; None if the time is up."""
        assert self._process is not None and self._process.stdout is not None
        stream = self._process.stdout
        while b"\n" not in self._received:
            if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return b""
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _seconds(self, request: Request) -> float:
        with contextlib.suppress(OSError):
            return self.limits.seconds + (request.videos / request.record.source).stat().st_size / 1e6
        return self.limits.seconds


_of_thread = threading.local()


def thread_sandbox(limits: Limits) -> Sandbox:
    """Return the sandbox of the calling thread, kept from one shard to the next."""
    sandbox = getattr(_of_thread, "sandbox", None)
    if sandbox is None or sandbox.limits != limits:
        close_thread_sandbox()
        sandbox = _of_thread.sandbox = Sandbox(limits)
    return sandbox


def close_thread_sandbox() -> None:
    sandbox = getattr(_of_thread, "sandbox", None)
    if sandbox is not None:
        sandbox.close()
        _of_thread.sandbox = None


def serve(memory_bytes: int) -> None:
    """Answer requests until the standard input ends; the main loop of the encoding process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker, interrupted, closes the input
    # Whatever a library prints must not get among the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a hanging decoder must not outlive its worker
        limit = used_memory("VmSize") + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        try:
            replies.write(json.dumps(_answer(Request.from_json(line))) + "\n")
            replies.flush()
        except BrokenPipeError:  # the worker was killed; nobody waits for the reply
            os._exit(1)


def _answer(request: Request) -> dict[str, Any]:
    try:
        sample = encode_sample(request.videos, request.record, request.settings, request.target)
    except MediaError as error:
        numbers = _error_numbers(error)
        for number in (errno.ENOSPC, errno.EDQUOT):  # a full disk is not the video's fault
            if number in numbers:
                return {"errno": number}
        if errno.ENOMEM in numbers or _memory_is_short():
            return {"memory": error.message}
        return outcome_to_values(error)
    except MemoryError:
        return {"memory": "out of memory"}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"errno": error.errno}
        return {"kind": "encode", "message": f"{type(error).__name__}: {error}"}
    except Exception as error:  # one video must not stop the job, not even by a mistake of ours
        return {"kind": "encode", "message": f"unexpected {type(error).__name__}: {error}"}
    return outcome_to_values(sample)


def outcome_to_values(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as values of JSON."""
    if isinstance(outcome, MediaError):
        return {"kind": outcome.kind, "message": outcome.message}
    offsets = None if outcome.offsets is None else outcome.offsets.tolist()
    values = {name: getattr(outcome, name) for name in EncodedSample.__dataclass_fields__}
    return {"sample": values | {"media": str(outcome.media), "offsets": offsets}}


def outcome_from_values(values: dict[str, Any]) -> Outcome:
    """Return the outcome that `outcome_to_values` wrote."""
    if "kind" in values:
        return MediaError(values["kind"], values["message"])
    sample = values["sample"]
    offsets = None if sample["offsets"] is None else np.array(sample["offsets"], np.int32)
    return EncodedSample(**sample | {"media": Path(sample["media"]), "offsets": offsets})


def _memory_is_short() -> bool:
    """Return whether this process came near its limit: without memory, many decoders call a picture damaged."""
    if sys.platform != "linux":
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return limit != resource.RLIM_INFINITY and used_memory("VmPeak") > limit - _LARGEST_PICTURE_BYTES


def _error_numbers(error: BaseException) -> set[int]:
    """Return the errno of an error and of all that caused it."""
    numbers = set()
    cause: BaseException | None = error
    while cause is not None:
        numbers.add(errno.ENOMEM if isinstance(cause, MemoryError) else getattr(cause, "errno", None))
        cause = cause.__cause__
    return numbers


if __name__ == "__main__":
    serve(int(sys.argv[1]))
