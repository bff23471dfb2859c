"""What must hold in a manifest, which may come from anybody, before anything is done with its values."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.manifest import Manifest

MAX_SAMPLES = 1 << 31  # sample ids are int32
MAX_PIXELS = 1 << 26  # per frame: 8192 x 8192; an 8K frame has 33 million
_MAX_BYTES = 1 << 63
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.tar")
_TEXTS = ("dataset", "split", "profile", "fingerprint", "plan", "table_sha256", "frames_sha256")


def problem_of(manifest: "Manifest") -> str | None:
    """Return the first thing in a manifest that no version of this program writes; None if there is none.

    The names of its shards, which become paths, stay in the folder of the split; all numbers are within bounds.
    """
    return next(_problems(manifest), None)


def is_shard_name(name: object) -> bool:
    """Whether a shard may be called so: it is a file of its folder, whatever reads the name."""
    return isinstance(name, str) and _SHARD_NAME.fullmatch(name) is not None


def _problems(manifest: "Manifest") -> Iterator[str]:
    for name in _TEXTS:
        if not is_text(getattr(manifest, name)):
            yield f"{name} is no text"
    if not isinstance(manifest.settings, Mapping):
        yield "settings is no mapping"
    elif not _is_count(manifest.settings.get("max_frames", 1), MAX_SAMPLES):
        yield "settings: max_frames is no number within bounds"
    for name, limit in (("samples", MAX_SAMPLES), ("bytes", _MAX_BYTES), ("failures", MAX_SAMPLES)):
        if not _is_count(getattr(manifest, name), limit):
            yield f"{name}={_shown(getattr(manifest, name))} is no number from 0 to {limit - 1}"
    yield from _problems_of_classes(manifest)
    yield from _problems_of_shards(manifest)
    for parameters in manifest.codec_parameters:
        if not isinstance(parameters, str) or not re.fullmatch("(?:[0-9a-f]{2})*", parameters):
            yield "codec_parameters are not hexadecimal"


def _problems_of_classes(manifest: "Manifest") -> Iterator[str]:
    for where, names in (("classes", manifest.classes), *manifest.levels.items()):
        if not all(is_text(name) for name in names):
            yield f"{_shown(where)}: a name of a class is no text"
    if not isinstance(manifest.multi_label, bool):
        yield f"multi_label={_shown(manifest.multi_label)} is neither true nor false"
    if manifest.multi_label and manifest.levels:
        yield "levels: a split with several labels a sample has none"
    for pair in manifest.flip_pairs:
        if not all(_is_count(label, len(manifest.classes)) for label in pair):
            yield f"flip_pairs: {_shown(pair)} are no label ids of {len(manifest.classes)} classes"


def _problems_of_shards(manifest: "Manifest") -> Iterator[str]:
    for shard in manifest.shards:
        if not is_shard_name(shard.name):
            yield f"{_shown(shard.name)} is no name of a shard"
        if not (_is_count(shard.samples, MAX_SAMPLES) and _is_count(shard.bytes, _MAX_BYTES)):
            yield f"{_shown(shard.name)}: its samples or bytes are no numbers within bounds"
        if not is_text(shard.sha256):
            yield f"{_shown(shard.name)}: its sha256 is no text"
    twice = [name for name, times in Counter(shard.name for shard in manifest.shards).items() if times > 1]
    if twice:
        yield f"names the shard {twice[0]} twice"


def is_text(value: Any) -> bool:
    """Whether it is a string that can be written; JSON can spell others, of single surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_count(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
