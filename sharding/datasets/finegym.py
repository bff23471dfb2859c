"""FineGym (Gym99, Gym288): elements cut out of the events of long videos, with labels on three levels."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding.datasets.common import SourceFinder, choose_file, is_number, read_json
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, read_lines

EVENTS = {"VT": "vault", "FX": "floor exercise", "BB": "balance beam", "UB": "uneven bars"}
_NUMBER = r"(\d{1,18})"  # what `int` takes without an error
_ELEMENT = re.compile(rf"Clabel:\s*{_NUMBER};\s*set:\s*{_NUMBER};\s*Glabel:\s*{_NUMBER};\s*\(([A-Z]{{2}})\)\s*(\S.*)")
_SET = re.compile(rf"set:\s*{_NUMBER};\s*(\S.*)")
_KEY = re.compile(r"(?P<video>.+)_(?P<event>E_\d+_\d+)_(?P<element>A_\d+_\d+)")


@dataclass(frozen=True)
class _Categories:
    """The three levels; `elements[i]` is class i, `sets_of[i]` and `events_of[i]` are what it belongs to."""

    elements: tuple[str, ...]
    sets_of: tuple[str, ...]
    events_of: tuple[str, ...]
    sets: tuple[str, ...]


def read_finegym(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read four published files, and `set_categories.txt` for the names of the sets.

    `finegym_annotation_info_v1.1.json` has the times, `gym99_train_element_v1.1.txt` and `gym99_val_element.txt` the
    elements of a split (lines `VIDEO_E_002407_002435_A_0003_0005 LABEL`), `gym99_categories.txt` the classes; likewise
    gym288. An element's times count from the start of its event. Its source is, where it is there, the element's own
    clip (`KEY.mp4`), else the event's clip (`VIDEO_E_002407_002435.mp4`), else all of `VIDEO.mp4`, the last two
    trimmed. The label is the element; the levels `event` and `set` come along.
    """
    path = choose_file(annotations, ["annotation"], "the times of the elements")
    times = read_json(path)
    if not isinstance(times, dict):
        raise UserError(f"{path}: expected are entries VIDEO: {{EVENT: …}}")
    categories = _read_categories(annotations)
    listed = choose_file(annotations, [f"_{split}"], f"the elements of the split {split!r}")
    finder, keys = SourceFinder(videos), UniqueKeys()
    records = []
    for number, line in enumerate(read_lines(listed), 1):
        if not line.strip():
            continue
        where = f"{listed}, line {number}"
        key, _, label = line.strip().rpartition(" ")
        parts = _KEY.fullmatch(key.strip())
        if not parts or not is_number(label) or int(label) >= len(categories.elements):
            raise UserError(
                f"{where}: {line.strip()!r}: expected is 'VIDEO_E_…_A_…' and a label from 0 to "
                f"{len(categories.elements) - 1}"
            )
        source, start, end = _locate(parts, times, f"{where} ({path.name})", finder)
        element, of_set, of_event = (
            names[int(label)] for names in (categories.elements, categories.sets_of, categories.events_of)
        )
        records.append(VideoRecord(keys.add(parts[0], where), source, element, start, end, (of_event, of_set)))
    levels = (("event", tuple(EVENTS.values())), ("set", categories.sets))
    return Annotations(records, categories.elements, levels=levels)


def _locate(
    parts: re.Match[str], times: dict[str, Any], where: str, finder: SourceFinder
) -> tuple[str, float | None, float | None]:
    """Return (source, start_seconds, end_seconds) of an element.

    An event from 2407.32 s on, an element at [3.5, 5.0) s of it, the complete video there: (…, 2410.82, 2412.32).
    """
    video, event, element = parts["video"], parts["event"], parts["element"]
    clip = finder.find(f"{parts[0]}.mp4")
    if clip:
        return clip, None, None
    try:
        of_event = times[video][event]
        stages = of_event["segments"][element]["timestamps"]
        # A vault has three stages one after the other; everything else has one.
        start, end = float(stages[0][0]), float(stages[-1][1])
        event_start = float(of_event["timestamps"][0][0])
    except (KeyError, IndexError, TypeError, ValueError):
        raise UserError(f"{where}: no times of {element} in event {event} of video {video}") from None
    if not 0 <= start < end:
        raise UserError(f"{where}: {element} in event {event} of video {video} is from {start} to {end} seconds")
    of_event = finder.find(f"{video}_{event}.mp4")
    if of_event:
        return of_event, start, end
    return finder.locate(f"{video}.mp4"), round(event_start + start, 3), round(event_start + end, 3)


def _read_categories(annotations: Sequence[Path]) -> _Categories:
    """Return the classes from lines `Clabel: 0; set: 1; Glabel: 4; (VT) round-off, …`.

    A name that is there twice (Gym99 has "(BB) salto backward tucked" in two sets) gets its Glabel appended, the
    number among all 530 elements.
    """
    set_files = [path for path in annotations if path.name.startswith("set_")]
    set_names = _read_set_names(set_files[0]) if set_files else {}
    rest = [path for path in annotations if path not in set_files]
    path = choose_file(rest, ["categories"], "the names of the elements")
    rows: list[tuple[str, ...]] = []
    for where, parts in _matches(path, _ELEMENT, "Clabel: 0; set: 1; Glabel: 4; (VT) NAME"):
        if int(parts[1]) != len(rows) or parts[4] not in EVENTS:
            raise UserError(
                f"{where}: label {parts[1]}, ({parts[4]}): expected is {len(rows)}, ({' or '.join(EVENTS)})"
            )
        rows.append(parts.groups())
    if not rows:
        raise UserError(f"{path}: no categories in it")
    times_named = Counter((event, name) for *_, event, name in rows)
    return _Categories(
        elements=tuple(
            f"({event}) {name}" + (f" [{among_all}]" if times_named[event, name] > 1 else "")
            for _, _, among_all, event, name in rows
        ),
        sets_of=tuple(set_names.get(row[1], row[1]) for row in rows),
        events_of=tuple(EVENTS[row[3]] for row in rows),
        sets=tuple(set_names.get(number, number) for number in sorted({row[1] for row in rows}, key=int)),
    )


def _read_set_names(path: Path) -> dict[str, str]:
    """Map the number of a set to number and name, from lines `set: 1; NAME`."""
    return {parts[1]: f"{parts[1]} {parts[2]}" for _, parts in _matches(path, _SET, "set: 1; NAME")}


def _matches(path: Path, pattern: re.Pattern[str], expected: str) -> Iterator[tuple[str, re.Match[str]]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            parts = pattern.fullmatch(line.strip())
            if not parts:
                raise UserError(f"{where}: {line.strip()!r}: expected is {expected!r}")
            yield where, parts
