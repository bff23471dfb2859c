"""Shows how far a long job is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from sharding.packing.shard import ShardResult

_LINE_EVERY_SECONDS = 10


def with_progress(results: Iterator[ShardResult], total: int, unit: str = "videos") -> Iterator[ShardResult]:
    """Pass results on; rate and time left count only what was done in this run.

    Args:
        total: videos, or shards.
        unit: which of the two.
    """
    began = last_line = time.monotonic()
    done = worked = failed = 0
    with tqdm(total=total, unit=f" {unit}", disable=not sys.stderr.isatty(), smoothing=0.05) as bar:
        for result in results:
            count = result.samples + result.failures if unit == "videos" else 1
            done, failed = done + count, failed + result.failures
            worked += 0 if result.kept else count
            if result.kept and not bar.disable:
                bar.initial += count  # not of this run, so not part of the rate
            bar.update(count)
            if failed:
                bar.set_postfix_str(f"{failed} failed", refresh=False)
            now = time.monotonic()
            if bar.disable and worked and now - last_line > _LINE_EVERY_SECONDS:
                last_line = now
                rate = worked / (now - began)
                left = (total - done) / rate / 60
                line = f"{done}/{total} {unit}, {rate:.1f}/s, {failed} failed, {left:.0f} min left"
                print(line, file=sys.stderr, flush=True)
            yield result
