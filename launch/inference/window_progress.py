"""How far long videos have been seen: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from launch.inference.long_video import OpenedVideo
from launch.inference.window_predictions import Progress

_LINE_EVERY_SECONDS = 10


@contextmanager
def show_progress(num_videos: int) -> Iterator[Progress]:
    """Yield what is called with a video and the second up to which it was seen; rates are in times of real time."""
    state = _State(num_videos)
    with tqdm(
        total=0, disable=not sys.stderr.isatty(), bar_format="{desc}{percentage:3.0f}%|{bar}| {postfix}"
    ) as state.bar:
        yield state.update


class _State:
    bar: tqdm

    def __init__(self, num_videos: int):
        self.num_videos, self.number = num_videos, 0
        self.video: OpenedVideo | None = None
        self.began = self.last_line = self.last = time.monotonic()

    def update(self, video: OpenedVideo, seconds: float) -> None:
        now = time.monotonic()
        if video is not self.video:
            self.video, self.number, self.began = video, self.number + 1, self.last
            self.bar.reset(total=video.duration)
            self.bar.set_description_str(f"{self.number}/{self.num_videos} {video.path.name} ", refresh=False)
        self.last = now
        rate = seconds / max(now - self.began, 1e-9)
        left = (video.duration - seconds) / max(rate, 1e-9)
        text = f"{seconds:.0f} of {video.duration:.0f} s, {rate:.1f} x real time, {_duration(left)} left"
        self.bar.n = min(seconds, video.duration)
        self.bar.set_postfix_str(text)
        if self.bar.disable and now - self.last_line > _LINE_EVERY_SECONDS:
            self.last_line = now
            print(f"{video.path.name}: {text}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
