"""Videos in archives, as packing takes them: members of tars and zips by their places, those of .tar.gz in a stream."""

import posixpath
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from tqdm import tqdm

from sharding.archives.listing import (
    SUFFIXES,
    Member,
    clean_path,
    is_archive,
    is_sequential,
    list_members,
    open_tar,
)
from sharding.archives.locations import FileAt, local_file, open_file
from sharding.archives.members import check_member, copy_member, new_file
from sharding.archives.names import names_folder
from sharding.cores import available_cores
from sharding.datasets.common import may_be_video
from sharding.errors import MediaError, UserError
from sharding.parallel import run_in_workers

_OTHER_ARCHIVES = (".rar", ".7z", ".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz")


@dataclass(frozen=True)
class Archives:
    """Which archives hold the videos, and the folder in them where the paths of records begin."""

    files: tuple[FileAt, ...]
    inside: str = ""


@dataclass(frozen=True)
class ArchiveVideos:
    """A store of the videos in archives; see `sharding.packing.video_store.VideoStore`."""

    files: tuple[FileAt, ...]
    members: Mapping[str, tuple[int, Member]] = field(repr=False)
    """By the path that a record may have: the number of the archive, and the member."""
    shown: str = ""
    """What messages call all of it."""

    num_ahead = 0

    def as_folder(self) -> AbstractContextManager[Path]:
        return names_folder(self.members, self.shown)

    def fetch(self, source: str, folder: Path) -> Path:
        found = self._find(source)
        if not found:
            raise MediaError("missing", "no such file")
        copy = _place_of_copy(found, source, folder)
        for path, number, member in found:
            archive = self.files[number]
            assert not is_sequential(archive.name), "its videos can only be streamed"
            with open_file(archive) as stream:
                copy_member(stream, member, archive.name, _target(copy, path, source))
        return copy

    def subset(self, sources: Iterable[str]) -> "ArchiveVideos":
        wanted = {path: (number, member) for source in sources for path, number, member in self._find(source)}
        return replace(self, members=wanted)

    def is_streamed(self, source: str) -> bool:
        return any(is_sequential(self.files[number].name) for _, number, _ in self._find(source))

    def stream(self, sources: Iterable[str], folder: Path) -> Iterator[tuple[str, Path | MediaError]]:
        """A folder of pictures is complete when the last of them has come, wherever they are."""
        waiting = {source: _Arrival(source, self._find(source), folder / f"{n}") for n, source in enumerate(sources)}
        wanted: dict[int, dict[str, tuple[_Arrival, str]]] = defaultdict(dict)
        for arrival in waiting.values():
            for path, number, member in arrival.found:
                wanted[number][member.name] = (arrival, path)
        for number in sorted(wanted):
            if is_sequential(self.files[number].name):
                yield from _stream_tar(self.files[number], wanted[number])
            else:  # pictures of a folder that is spread over archives
                yield from _copy_all(self.files[number], wanted[number])

    def _find(self, source: str) -> list[tuple[str, int, Member]]:
        """Return path, archive and member of a video: of itself, or of the pictures in a folder of its name."""
        path = posixpath.normpath(source)
        paths = [path] if path in self.members else self._folders.get(path, [])
        return [(path, *self.members[path]) for path in paths]

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = defaultdict(list)
        for path in self.members:
            folders[posixpath.dirname(path)].append(path)
        return dict(folders)


@dataclass
class _Arrival:
    """A video of which members are still to come."""

    source: str
    found: list[tuple[str, int, Member]]
    folder: Path
    num_arrived: int = 0
    problem: MediaError | None = None

    def take(self, path: str, copy) -> bool:
        """Let `copy(target)` write a member; return whether it was the last."""
        self.num_arrived += 1
        if not self.problem:
            self.folder.mkdir(exist_ok=True)
            try:
                copy(_target(self.copy, path, self.source))
            except MediaError as error:
                self.problem = error
                shutil.rmtree(self.folder, ignore_errors=True)
        return self.num_arrived == len(self.found)

    @property
    def copy(self) -> Path:
        return _place_of_copy(self.found, self.source, self.folder)

    @property
    def result(self) -> tuple[str, Path | MediaError]:
        return self.source, self.problem or self.copy


def _stream_tar(archive: FileAt, wanted: dict[str, tuple[_Arrival, str]]) -> Iterator[tuple[str, Path | MediaError]]:
    left = len(wanted)
    with open_file(archive) as stream:
        for member in (reader := open_tar(stream, archive)):
            arrival, path = wanted.get(clean_path(member.name, archive.shown), (None, ""))
            if arrival is None or member.kind == "folder":
                continue
            expected = next(listed for place, _, listed in arrival.found if place == path)
            if (member.kind, member.size, member.offset) != (expected.kind, expected.size, expected.offset):
                raise UserError(f"{archive.shown}: changed while it was read; run it again")

            def copy(target: Path, reader=reader, expected=expected) -> None:
                check_member(expected, archive.name)
                with target.open("xb") as file:
                    reader.copy_to(file)

            if arrival.take(path, copy):
                yield arrival.result
            left -= 1
            if not left:
                return
    raise UserError(f"{archive.shown}: changed while it was read; run it again")


def _copy_all(archive: FileAt, wanted: dict[str, tuple[_Arrival, str]]) -> Iterator[tuple[str, Path | MediaError]]:
    with open_file(archive) as stream:
        for arrival, path in wanted.values():
            member = next(listed for place, _, listed in arrival.found if place == path)
            if arrival.take(path, partial(copy_member, stream, member, archive.name)):
                yield arrival.result


def _place_of_copy(found: Sequence[tuple[str, int, Member]], source: str, folder: Path) -> Path:
    is_file = len(found) == 1 and found[0][0] == posixpath.normpath(source)
    return new_file(folder, source) if is_file else folder / "pictures"


def _target(copy: Path, path: str, source: str) -> Path:
    """Return where a member goes of a video that is a file or a folder of pictures."""
    if path == posixpath.normpath(source):
        return copy
    copy.mkdir(exist_ok=True)
    return copy / posixpath.basename(path)


def find_archives(videos: Path) -> Archives | None:
    """Return the archives that --videos means; None if it is a folder of videos, or nothing.

    Raises:
        UserError: it is an archive of another kind.
    """
    for path in (videos, *videos.parents):
        if path.is_file():
            if not is_archive(path.name):
                raise UserError(
                    f"--videos {path}: a folder of videos is expected, or an archive: {', '.join(SUFFIXES)}"
                    + ("; unpack it" if path.name.lower().endswith(_OTHER_ARCHIVES) else "")
                )
            inside = videos.relative_to(path).as_posix()
            return Archives((local_file(path),), "" if inside == "." else inside)
    try:
        entries = [entry for entry in sorted(videos.iterdir()) if not entry.name.startswith(".")]
    except OSError:  # whoever reads the folder says so
        return None
    archives = [entry for entry in entries if is_archive(entry.name) and entry.is_file()]
    if not archives or any(entry.is_dir() or may_be_video(entry.name) for entry in entries):
        return None
    return Archives(tuple(map(local_file, archives)))


def list_archives(archives: Archives, cache: Path, shown: str) -> ArchiveVideos:
    """Read the headers of all archives that are not listed yet, several at the same time. Raises UserError."""
    members: dict[str, tuple[int, Member]] = {}
    files = archives.files
    inside = f"{archives.inside}/" if archives.inside else ""
    listings = run_in_workers(partial(list_members, cache=cache), files, min(len(files), available_cores()))
    bar = tqdm(listings, total=len(files), unit=" archives", desc="listing", disable=None)
    for number, listing in enumerate(bar):
        for member in listing:
            if member.name.startswith(inside):
                path = member.name.removeprefix(inside)
                if path in members:
                    other = files[members[path][0]]
                    raise UserError(f"{other.shown} and {files[number].shown}: both have a member {member.name!r}")
                members[path] = (number, member)
    if not members:
        where = files[0].shown if len(files) == 1 else f"{len(files)} archives"
        below = f" below {archives.inside}" if inside else ""
        raise UserError(f"--videos {shown}: no files in {where}{below}; give archives of videos")
    return ArchiveVideos(files, members, shown)
