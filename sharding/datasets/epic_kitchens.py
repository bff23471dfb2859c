"""EPIC-Kitchens-100: segments of long videos with a verb and a noun; the class is the two together, the action."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sharding.datasets.common import SourceFinder, choose_file, is_number, kind_of_path, read_rows, read_seconds
from sharding.errors import UserError
from sharding.records import Annotations, UniqueKeys, VideoRecord, picture_times

_WORDS = {"train": "train", "val": "validation", "validation": "validation", "test": "test_timestamps"}
_NO_LISTS = ("classes", "unseen", "tail", "info")
_PLACES = ("{person}/videos/{video}.MP4", "{person}/{video}.MP4", "{video}.MP4", "{person}/rgb_frames/{video}")
_TIMES = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame")


def read_epic_kitchens(videos: Path, annotations: Sequence[Path], split: str) -> Annotations:
    """Read `EPIC_100_{train,validation,test_timestamps}.csv`, `EPIC_100_verb_classes.csv` and `…_noun_classes.csv`.

    The class of a segment is its action, "open door"; the verb and the noun are its levels. Actions are those of all
    the files given, in the order of their verbs and nouns: give those of training and validation every time, also for
    the test split, which has no labels. A key is the `narration_id`.

    A video is `P01/videos/P01_101.MP4`, `P01/P01_101.MP4` or `P01_101.MP4`, cut by its timestamps; or a folder of the
    published frames, `P01/rgb_frames/P01_101`, `P01/P01_101` or `P01_101`, of which those from `start_frame` to
    `stop_frame` are taken, both included, counted from 1.
    """
    if split not in _WORDS:
        raise UserError(f"--split {split}: epic-kitchens has train, val and test")
    verbs = _class_names(choose_file(annotations, ["verb_classes"], "the names of the verbs"))
    nouns = _class_names(choose_file(annotations, ["noun_classes"], "the names of the nouns"))
    lists = [path for path in annotations if not any(word in path.name.lower() for word in _NO_LISTS)]
    listed = choose_file(lists, [_WORDS[split]], f"the segments of the split {split!r}")
    labelled = [path for path in lists if _WORDS["test"] not in path.name.lower()]
    actions = {
        _action(where, row, verbs, nouns)
        for path in labelled
        for where, row in read_rows(path, ("verb_class", "noun_class"))
    }
    videos_found, keys = _Videos(videos), UniqueKeys()
    records = []
    for where, row in read_rows(listed, _TIMES):
        source, start, end = videos_found.locate_part(where, row)
        key = keys.add(row["narration_id"], where)
        if listed not in labelled:
            records.append(VideoRecord(key, source, None, start, end))
            continue
        verb, noun = _action(where, row, verbs, nouns)
        levels = (verbs[verb], nouns[noun])
        records.append(VideoRecord(key, source, " ".join(levels), start, end, levels))
    classes = tuple(f"{verbs[verb]} {nouns[noun]}" for verb, noun in sorted(actions))
    return Annotations(records, classes, levels=(("verb", verbs), ("noun", nouns)))


def _action(where: str, row: dict[str, str], verbs: tuple[str, ...], nouns: tuple[str, ...]) -> tuple[int, int]:
    """Return the ids of verb and noun."""
    for column, names in (("verb_class", verbs), ("noun_class", nouns)):
        if not is_number(row[column]) or int(row[column]) >= len(names):
            raise UserError(f"{where}: {column} {row[column]!r}: allowed are 0 to {len(names) - 1}")
    return int(row["verb_class"]), int(row["noun_class"])


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the column `key` of rows whose `id` counts from 0."""
    names = []
    for where, row in read_rows(path, ("id", "key")):
        if row["id"] != str(len(names)) or not row["key"]:
            raise UserError(f"{where}: id {row['id']!r}, key {row['key']!r}: expected is {len(names)} and a name")
        names.append(row["key"])
    if not names:
        raise UserError(f"{path}: no classes in it")
    return tuple(names)


class _Videos:
    """Where the videos are, each looked for once."""

    def __init__(self, videos: Path) -> None:
        self._videos, self._finder = videos, SourceFinder(videos)
        self._found: dict[str, tuple[str, bool]] = {}

    def locate_part(self, where: str, row: dict[str, str]) -> tuple[str, float, float]:
        """Return (source, start_seconds, end_seconds) of a segment."""
        video = row["video_id"]
        if not video or "/" in video:
            raise UserError(f"{where}: video_id {video!r}: a name such as P01_101 is expected")
        if video not in self._found:
            self._found[video] = self._find(video)
        source, is_folder = self._found[video]
        start, end = (read_seconds(row[name], where) for name in ("start_timestamp", "stop_timestamp"))
        if not is_folder:
            return source, start, end
        for name in ("start_frame", "stop_frame"):
            if not is_number(row[name]) or int(row[name]) < 1:
                raise UserError(f"{where}: {name} {row[name]!r}: a number from 1 on is expected")
        return source, *picture_times(int(row["start_frame"]) - 1, int(row["stop_frame"]))

    def _find(self, video: str) -> tuple[str, bool]:
        found = (self._finder.find(path) for path in self._paths(video))
        source = next((path for path in found if path), None)
        return source or f"{video.partition('_')[0]}/{video}.MP4", bool(source) and kind_of_path(
            self._videos / source
        ) == "folder"

    def _paths(self, video: str) -> Iterator[str]:
        return (place.format(person=video.partition("_")[0], video=video) for place in _PLACES)
