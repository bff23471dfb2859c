"""How many videos are done: a bar on a terminal, a plain line now and then elsewhere, by the first rank."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from launch.training.distributed import Ranks

_LINE_EVERY_SECONDS = 10


@contextmanager
def show_count(total: int, ranks: Ranks, unit: str = "samples") -> Iterator[Callable[[int], None]]:
    """Yield what is called with the number of videos that this rank has done more of."""
    began = last_line = time.monotonic()
    done = 0
    hidden = not ranks.is_main_process or not sys.stderr.isatty()
    share = -(-total // ranks.world_size) if unit == "samples" else total
    with tqdm(total=share, unit=f" {unit}", disable=hidden) as bar:

        def count(more: int) -> None:
            nonlocal done, last_line
            done += more
            bar.update(more)
            now = time.monotonic()
            if ranks.is_main_process and bar.disable and now - last_line > _LINE_EVERY_SECONDS:
                last_line, rate = now, done / (now - began)
                left = (share - done) / rate / 60
                print(f"{done}/{share} {unit}, {rate:.1f}/s, {left:.0f} min left", file=sys.stderr, flush=True)

        yield count
