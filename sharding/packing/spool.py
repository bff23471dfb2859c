"""Samples encoded before it is their turn in a shard, since their archive can only be read in its own order.

.parts/spool/000012/KEY.json says what became of a video, and KEY is its media; the first is written last. A shard takes
its samples from there, and with that they go.
"""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

from sharding.errors import MediaError
from sharding.files import parse_json, write_atomically
from sharding.packing.sandbox import Outcome, outcome_from_values, outcome_to_values

PARTS = ".parts"


def write_spooled(directory: Path, shard: int, key: str, outcome: Outcome, keep_source: bool) -> None:
    """Keep the outcome for a shard of the split in `directory`; its media are moved, or copied with `keep_source`."""
    media = _media_path(directory, shard, key)
    media.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(outcome, MediaError):
        if keep_source:
            media.unlink(missing_ok=True)  # never through a link that somebody else has laid there
            shutil.copyfile(outcome.media, media)
        else:
            shutil.move(outcome.media, media)
        outcome = replace(outcome, media=Path(key))
    size = {} if isinstance(outcome, MediaError) else {"bytes": media.stat().st_size}
    write_atomically(media.with_name(f"{key}.json"), json.dumps(outcome_to_values(outcome) | size))


def read_spooled(directory: Path, shard: int, key: str) -> Outcome | None:
    """Return what is kept, complete; None if there is nothing."""
    media = _media_path(directory, shard, key)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        values = parse_json(media.with_name(f"{key}.json").read_bytes())
        outcome = outcome_from_values(values)
        if isinstance(outcome, MediaError):
            return outcome
        if media.stat().st_size == values["bytes"]:
            return replace(outcome, media=media)
    return None


def remove_spooled(directory: Path, shard: int) -> None:
    """Remove all that is kept for a shard."""
    shutil.rmtree(directory / PARTS / "spool" / f"{shard:06d}", ignore_errors=True)


def _media_path(directory: Path, shard: int, key: str) -> Path:
    return directory / PARTS / "spool" / f"{shard:06d}" / key
