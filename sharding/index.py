"""Makes a training set of shards that others made: reads them once, and writes a table next to them.

WebDataset tars, of which every sample has a video and a label -> sandbox -> rows -> table, indices, manifest. The tars
themselves are not changed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sharding.archives.locations import FileAt
from sharding.cores import available_cores
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError, WorkerKilledError
from sharding.files import write_atomically
from sharding.manifest import FAILURES, MANIFEST, Manifest, load_manifest
from sharding.pack import IncompleteError, PackResult
from sharding.packing.foreign_shard import ForeignShardTask, LabelRule, read_foreign_shard
from sharding.packing.profiles import ProfileSettings
from sharding.packing.progress import with_progress
from sharding.packing.sandbox import LIMITS, Limits, close_thread_sandbox
from sharding.packing.shard import PARTS, LabelIds
from sharding.packing.shard_places import bind_shards, find_shards
from sharding.packing.split_folder import (
    PackPlan,
    Part,
    complete,
    is_being_packed,
    parts_of,
    prepare_parts,
    remove_leftovers,
    write_failures,
)
from sharding.parallel import run_in_workers
from sharding.records import (
    Annotations,
    VideoRecord,
    check_records,
    check_text,
    keys_from_paths,
    plain_numbers,
    read_classes,
    sorted_classes,
    with_classes,
)


@dataclass(frozen=True)
class IndexConfig:
    """Which shards to index, and where their labels are."""

    shards: tuple[str, ...]
    """Folder of the tar files, or the files themselves, or the URL of a folder (s3://, gs://, https://)."""
    out: Path | None = None
    """Folder for the table, the indices and the manifest, with links to the shards, or the URL of theirs. Default: next
    to the shards."""
    label_field: str | None = None
    """Field of each sample's .json that holds its label, a name or a number; dots lead into objects (meta.label).
    Default: the label is in .cls; with --classes, in .txt where there is no .cls."""
    classes: Path | None = None
    """File with a class name a line, in the order of the label ids. Default: the labels found, sorted."""
    dataset: str | None = None
    """Name of the dataset, for the manifest. Default: that of the folder of the shards."""
    split: str = "train"
    """Name of the split, for the manifest."""
    max_failures: float = 0.05
    """Fraction of the videos that may not decode, rounded up to a full video; with more, nothing is written."""
    time_limit: float = 120.0
    """Seconds for decoding one video, and one more for each MB of it; then it has failed."""
    memory_limit: float = 4.0
    """Gigabytes that decoding one video may need; a video that wants more has failed."""
    workers: int = field(default_factory=available_cores)
    """Shards that are read at the same time."""

    def __post_init__(self):
        if not self.shards:
            raise UserError("index: no shards; give a folder of tar files, or the files")
        for name, (low, high) in ({"max_failures": (0, 1), "workers": (1, 4096)} | LIMITS).items():
            if not low <= getattr(self, name) <= high:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} {getattr(self, name)}: {low} to {high} is possible")
        if self.classes is not None and not self.classes.is_file():
            raise UserError(f"--classes {self.classes}: no such file")
        for name in ("dataset", "split"):
            check_text(getattr(self, name) or "", f"--{name}")

    @property
    def rule(self) -> LabelRule:
        return LabelRule(self.label_field, text_is_label=self.classes is not None)


def index(config: IndexConfig) -> PackResult:
    """Index shards that others made.

    Raises:
        IncompleteError: too many videos do not decode, or a worker was killed.
        UserError: a shard is damaged, or a sample has no video, several, or no label; nothing has its final name.
    """
    files, directory = find_shards(config.shards, config.out)
    _name_of(config, files)  # before the shards are read, which may take hours
    check_text(str(directory), "--out")
    if (directory / MANIFEST).is_file():
        manifest = _same(config, directory, files)
        remove_leftovers(directory)
        return _result(directory, manifest, already_complete=True)
    if is_being_packed(directory):
        raise UserError(f"{directory}: a split that is not completely packed; run its pack command again")
    try:
        return _index(config, files, directory)
    except WorkerKilledError as error:
        raise IncompleteError(str(error)) from error


def _index(config: IndexConfig, files: Sequence[FileAt], directory: Path) -> PackResult:
    with prepare_parts(directory):
        if (directory / MANIFEST).is_file():  # another process has made it in the meantime
            return _result(directory, _same(config, directory, files), already_complete=True)
        _read_shards(config, files, directory)
        return _result(directory, _join(config, files, directory), already_complete=False)


def _same(config: IndexConfig, directory: Path, files: Sequence[FileAt]) -> Manifest:
    """Return the manifest that is there, if it is that of these shards and labels."""
    manifest = load_manifest(directory)
    path = directory / MANIFEST
    if "indexed" not in manifest.settings:
        raise UserError(f"{path}: these shards were packed here, so there is nothing to index")
    there = {file.name: file.bytes for file in files}
    if there.keys() != {s.name for s in manifest.shards} or any(
        there[s.name] not in (0, s.bytes) for s in manifest.shards
    ):
        raise UserError(f"{path}: of other shards than are there now; remove it to index them again")
    other_classes = config.classes is not None and read_classes(config.classes) != manifest.classes
    if other_classes or manifest.settings.get("label_field") != config.label_field:
        raise UserError(f"{path}: these shards are indexed with other labels; remove it to index them again")
    for name, asked in (("split", config.split), ("dataset", config.dataset)):
        if asked not in (None, getattr(manifest, name)):
            raise UserError(
                f"{path}: these shards are indexed with --{name} {getattr(manifest, name)}, not {asked}; remove it to "
                "index them again"
            )
    return manifest


def _result(directory: Path, manifest: Manifest, already_complete: bool) -> PackResult:
    return PackResult(
        directory=directory,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=manifest.bytes,
        failures=manifest.failures,
        fingerprint=manifest.fingerprint,
        already_complete=already_complete,
    )


def _read_shards(config: IndexConfig, files: Sequence[FileAt], directory: Path) -> None:
    """Read all shards that are not read yet."""
    limits = Limits(config.time_limit, int(config.memory_limit * 2**30))
    tasks = (
        ForeignShardTask(directory.absolute(), number, file, config.rule, limits) for number, file in enumerate(files)
    )
    results = run_in_workers(read_foreign_shard, tasks, min(config.workers, len(files)), ordered=False)
    try:
        for _ in with_progress(results, len(files), "shards"):
            pass
    finally:
        close_thread_sandbox()  # where this process was its own worker


def _join(config: IndexConfig, files: Sequence[FileAt], directory: Path) -> Manifest:
    """Number the labels of all shards, and complete the folder."""

    def labelled() -> Iterator[Part]:
        return _with_labels(parts_of(directory, len(files)), annotations)

    annotations = _annotate(config, parts_of(directory, len(files)))
    failures, num_videos = sum(len(part["failures"]) for part in labelled()), len(annotations.records)
    if failures > math.ceil(config.max_failures * num_videos):
        write_failures(directory / PARTS, labelled())
        raise IncompleteError(
            f"{failures} of {num_videos} videos do not decode, more than --max-failures {config.max_failures:g}; "
            f"{directory / PARTS / FAILURES} says why. Raise --max-failures to train without them"
        )
    settings = asdict(ProfileSettings(profile="copy", quality=0))
    del settings["frame_template"]
    settings |= {"indexed": True} | ({"label_field": config.label_field} if config.label_field else {})
    bind_shards(directory, files)
    for file, part in zip(files, labelled(), strict=True):
        write_atomically((directory / file.name).with_suffix(".idx"), part["index"])
    write_failures(directory, labelled())
    return complete(directory, PackPlan(_name_of(config, files), config.split, annotations, (), settings), labelled())


def _name_of(config: IndexConfig, files: Sequence[FileAt]) -> str:
    """Return the name of the dataset. Raises UserError if no manifest can hold that of the folder."""
    name = config.dataset or Path(files[0].location).absolute().parent.name or "shards"
    return check_text(name, "--dataset")


def _annotate(config: IndexConfig, parts: Iterable[Part]) -> Annotations:
    """Return a record for each row and each failure, with its key as the table will have it, and the classes."""
    videos = [
        (part["name"], video["key"], video["source"], video["label"])
        for part in parts
        for video in (*part["rows"], *part["failures"])
    ]
    names = read_classes(config.classes) if config.classes else ()
    labels = {label for *_, label in videos}
    plain = dict(zip(names, names)) if labels <= set(names) else plain_numbers(labels)
    counts = Counter(key for _, key, _, _ in videos)
    keys = keys_from_paths([key if counts[key] == 1 else f"{Path(shard).stem}/{key}" for shard, key, _, _ in videos])
    records = [
        VideoRecord(key, f"{shard}, {source}", plain[label]) for key, (shard, _, source, label) in zip(keys, videos)
    ]
    annotations = Annotations(records, sorted_classes(plain[label] for label in labels))
    if names:
        annotations = with_classes(annotations, names)
    return check_records(replace(annotations, flip_pairs=mirrored_pairs(annotations.classes)))


def _with_labels(parts: Iterable[Part], annotations: Annotations) -> Iterator[Part]:
    """Yield the parts with the keys and labels of the records, which are in their order: label ids in the rows."""
    label_ids = LabelIds(annotations)
    records = iter(annotations.records)
    for part in parts:
        rows = [row | {"key": (r := next(records)).key, "label": label_ids.of_class(r)} for row in part["rows"]]
        failures = [failure | {"key": (r := next(records)).key, "label": r.label} for failure in part["failures"]]
        yield {**part, "rows": rows, "failures": failures}
