"""Diving48, V1 and V2: JSON lists of clips, and the vocabulary of dives."""

from collections.abc import Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder, choose_file, read_json
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord


def read_diving48(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `Diving48_[V2_]{train,test}.json`, `Diving48_vocab.json`; videos are `VIDEOS/VID_NAME.mp4`, already cut.

    A class is the four parts of a dive, "Back 15som 05Twis FREE". There is no validation split: val is the test list.
    `start_frame` and `end_frame` span all of each published clip and are not used.
    """
    classes = _class_names(choose_file(annotations, ["vocab"], "the names of the dives"))
    words = ["val", "test"] if split in ("val", "test") else [split]
    path = choose_file(annotations, words, f"the videos of the split {split!r}")
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f'{path}: expected is a list of {{"vid_name": …, "label": …}}')
    finder, keys = SourceFinder(videos), UniqueKeys()
    records = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or "vid_name" not in entry or "label" not in entry:
            raise UserError(f"{where}: no 'vid_name' or no 'label' in {entry!r}")
        label = entry["label"]
        if type(label) is not int or not 0 <= label < len(classes):
            raise UserError(f"{where}: label {label!r}: allowed are 0 to {len(classes) - 1}")
        key = keys.add(str(entry["vid_name"]), where)
        records.append(VideoRecord(key, finder.locate(f"{key}.mp4"), classes[label]))
    return Annotations(records, classes)


def _class_names(path: Path) -> tuple[str, ...]:
    vocabulary = read_json(path)
    if not isinstance(vocabulary, list) or not all(isinstance(dive, list) for dive in vocabulary):
        raise UserError(f'{path}: expected is a list of dives, each like ["Back", "15som", "05Twis", "FREE"]')
    return tuple(" ".join(map(str, dive)) for dive in vocabulary)
