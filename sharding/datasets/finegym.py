"""FineGym (Gym99, Gym288): elements cut out of the events of long videos, with labels on three levels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding.commandline import UserError
from sharding.datasets.files import SourceFinder, choose_file, read_json
from sharding.records import Annotations, UniqueKeys, VideoRecord, read_lines

EVENTS = {"VT": "vault", "FX": "floor exercise", "BB": "balance beam", "UB": "uneven bars"}
_ELEMENT = re.compile(r"Clabel:\s*(\d+);\s*set:\s*(\d+);.*?\(([A-Z]{2})\)\s*(\S.*)")
_SET = re.compile(r"set:\s*(\d+);\s*(\S.*)")
_KEY = re.compile(r"(?P<video>.+)_(?P<event>E_\d+_\d+)_(?P<element>A_\d+_\d+)")


@dataclass(frozen=True)
class _Categories:
    """The three levels; `elements[i]` is class i, `sets_of[i]` and `events_of[i]` are what it belongs to."""

    elements: tuple[str, ...]
    sets_of: tuple[str, ...]
    events_of: tuple[str, ...]
    sets: tuple[str, ...]


def read_finegym(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Four published files, and `set_categories.txt` for the names of the sets.

    `finegym_annotation_info_v1.1.json` has the times, `gym99_train_element_v1.1.txt` and `gym99_val_element.txt` the
    elements of a split (lines `VIDEO_E_002407_002435_A_0003_0005 LABEL`), `gym99_categories.txt` the classes; likewise
    gym288. An element's times count from the start of its event. Its source is, where it is there, the element's own
    clip (`KEY.mp4`), else the event's clip (`VIDEO_E_002407_002435.mp4`), else the whole `VIDEO.mp4`, the last two
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
        if not parts or not label.isdigit() or int(label) >= len(categories.elements):
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
    """(source, start_seconds, end_seconds) of an element.

    An event from 2407.32 s on, an element at [3.5, 5.0) s of it, the whole video there: (…, 2410.82, 2412.32).
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
    """Lines `Clabel: 0; set: 1; Glabel: 4; (VT) round-off, …`, and `set: 1; VT-…` for the names of the sets."""
    named = [path for path in annotations if path.name.startswith("set_")]
    set_names: dict[str, str] = {}
    for path in named[:1]:
        for number, line in enumerate(read_lines(path), 1):
            if line.strip():
                parts = _match(_SET, line, f"{path}, line {number}", "set: 1; NAME")
                set_names[parts[1]] = f"{parts[1]} {parts[2].strip()}"
    rest = [path for path in annotations if path not in named]
    path = choose_file(rest, ["categories"], "the names of the elements")
    elements: list[tuple[str, str, str]] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        label, of_set, event, name = _match(_ELEMENT, line, where, "Clabel: 0; set: 1; …; (VT) NAME").groups()
        if int(label) != len(elements) or event not in EVENTS:
            raise UserError(
                f"{where}: label {label} of event {event}: expected is {len(elements)}, of {', '.join(EVENTS)}"
            )
        elements.append((f"({event}) {name.strip()}", set_names.get(of_set, of_set), EVENTS[event]))
    if not elements:
        raise UserError(f"{path}: no categories in it")
    names, sets_of, events_of = zip(*elements)
    return _Categories(names, sets_of, events_of, tuple(sorted(set(sets_of), key=lambda name: int(name.split()[0]))))


def _match(pattern: re.Pattern[str], line: str, where: str, expected: str) -> re.Match[str]:
    parts = pattern.match(line.strip())
    if not parts:
        raise UserError(f"{where}: {line.strip()!r}: expected is {expected!r}")
    return parts
