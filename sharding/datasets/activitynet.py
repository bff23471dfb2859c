"""ActivityNet and HACS Segments: JSON with the actions of long videos; each action is a sample of its own."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharding.datasets.common import find_videos, read_json, splits_in_name
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord

_SUBSETS = {"train": "training", "val": "validation", "test": "testing"}


def read_activitynet(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `activity_net.v1-3.min.json` or `HACS_segments_v1.1.1.json`, or such files of the splits as mmaction2 has.

    The published files list all splits, `{"database": {ID: {"subset": "training", "annotations": [{"segment": [5.4,
    11.6], "label": NAME}]}}}`. mmaction2's `anet_anno_train.json` has the entries alone, and the split in its name.
    A segment is a sample; its key is that of the video and its number among the video's segments, from 0. The classes
    are those of all segments in all files, in the order of their names: give the files of all splits.

    The video of an ID is `v_ID.*` or `ID.*`, in any folder. Test videos have no segments, so there is no test split.
    """
    if not annotations:
        raise UserError("--annotations: the JSON file of the segments is needed, such as activity_net.v1-3.min.json")
    found, keys = find_videos(videos), UniqueKeys()
    labels: set[str] = set()
    records: list[VideoRecord] = []
    subsets: set[str] = set()
    for path in annotations:
        for video, subset, segments in _entries(path, split, len(annotations) == 1):
            subsets.add(subset)
            for number, (where, start, end, label) in enumerate(_segments(path, video, segments)):
                labels.add(label)
                if subset == _SUBSETS.get(split, split):
                    key = keys.add(f"{video}_{number}", where)
                    records.append(VideoRecord(key, _locate(video, found), label, start, end))
    if not records:
        known = ", ".join(map(repr, sorted(subsets))) or "none"
        raise UserError(f"--split {split}: no segments of it in {annotations[0]}; its subsets are {known}")
    return Annotations(records, tuple(sorted(labels)))


def _entries(path: Path, split: str, is_alone: bool) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """Yield (video, subset, segments); without subsets, it is the one in the file's name, or if alone the split's."""
    content = read_json(path)
    database = content.get("database", content) if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping):
        raise UserError(f'{path}: expected is {{"database": {{VIDEO: {{"subset": …, "annotations": […]}}}}}}')
    named = splits_in_name(path)
    default = _SUBSETS[named.pop()] if len(named) == 1 else _SUBSETS.get(split, split) if is_alone else None
    for video, entry in database.items():
        subset = entry.get("subset", default) if isinstance(entry, Mapping) else None
        segments = entry.get("annotations", []) if isinstance(entry, Mapping) else None
        if default is None and isinstance(entry, Mapping) and "subset" not in entry:
            raise UserError(
                f"{path}, video {video!r}: no 'subset', and not one of train, val and test in the file's name; rename "
                "the file"
            )
        if not isinstance(subset, str) or not isinstance(segments, list):
            raise UserError(
                f"{path}, video {video!r}: no list of 'annotations', or no 'subset', in {str(entry)[:100]!r}"
            )
        yield video, subset, segments


def _segments(path: Path, video: str, segments: Sequence[Any]) -> Iterator[tuple[str, float, float, str]]:
    for number, segment in enumerate(segments):
        where = f"{path}, video {video!r}, segment {number}"
        try:
            start, end = map(float, segment["segment"])
            label = segment["label"]
        except (KeyError, TypeError, ValueError, OverflowError):
            start = end = math.nan
            label = None
        if not (math.isfinite(start) and math.isfinite(end)) or not isinstance(label, str) or not label:
            raise UserError(f'{where}: {str(segment)[:100]!r}: expected is {{"segment": [START, END], "label": NAME}}')
        yield where, start, end, label


def _locate(video: str, found: Mapping[str, Sequence[str]]) -> str:
    candidates = found.get(f"v_{video}") or found.get(video) or [f"v_{video.removeprefix('v_')}.mp4"]
    return candidates[0]
