"""Videos in object storage or on a web server, as packing takes them: fetched one by one, ahead of the encoding."""

import errno
import os
import posixpath
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from sharding.archives.listing import is_archive
from sharding.archives.members import new_file
from sharding.archives.names import names_folder
from sharding.errors import MediaError, UserError, redacted
from sharding.objects.folder import StoredFile, open_folder
from sharding.objects.transport import MissingError

MAX_VIDEO_BYTES = 16 << 30
_MAX_NAME_BYTES = 255  # of a file, in most file systems
_SPARE_BYTES = 256 << 20  # of the disk, which downloads leave free for what is encoded


@dataclass(frozen=True)
class ObjectVideos:
    """A store of the videos below a URL; see `sharding.packing.video_store.VideoStore`."""

    url: str = field(repr=False)
    files: Mapping[str, StoredFile] | None = field(repr=False)
    """By path; None of a web server, of which no listing can be had."""

    num_ahead = 4

    def as_folder(self) -> AbstractContextManager[Path]:
        return names_folder(self.files or (), redacted(self.url))

    def fetch(self, source: str, folder: Path) -> Path:
        path = posixpath.normpath(source)
        if self.files is None:
            return self._copy(_checked(path), None, new_file(folder, source))
        if path in self.files:
            return self._copy(path, self.files[path], new_file(folder, source))
        pictures = self._folders.get(path)
        if not pictures:
            raise MediaError("missing", "no such file")
        copy = folder / "pictures"
        copy.mkdir()
        for picture in pictures:
            self._copy(picture, self.files[picture], copy / posixpath.basename(picture))
        return copy

    def subset(self, sources: Iterable[str]) -> "ObjectVideos":
        if self.files is None:
            return self
        paths = {posixpath.normpath(source) for source in sources}
        wanted = [path for source in paths for path in ([source] if source in self.files else self._folders[source])]
        return replace(self, files={path: self.files[path] for path in wanted})

    def is_streamed(self, source: str) -> bool:
        return False

    def stream(self, sources: Iterable[str], folder: Path) -> Iterator[tuple[str, Path | MediaError]]:
        return iter(())

    def _copy(self, path: str, stored: StoredFile | None, target: Path) -> Path:
        size = stored.bytes if stored else 0
        if size > MAX_VIDEO_BYTES:
            raise MediaError("open", f"{size:,} bytes, and a video may have {MAX_VIDEO_BYTES:,}")
        free = shutil.disk_usage(target.parent).free - _SPARE_BYTES
        if size >= free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.parent))
        folder = open_folder(self.url)
        try:
            folder.fetch(path if self.files is not None else quote(path), target, stored, min(MAX_VIDEO_BYTES, free))
        except MissingError as error:
            if folder.is_listed and "not found" not in str(error):
                raise  # access is refused, which is no fault of this video
            raise MediaError("missing", str(error).partition("; ")[0]) from error
        return target

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = defaultdict(list)
        for path in self.files or ():
            folders[posixpath.dirname(path)].append(path)
        return folders


def _checked(path: str) -> str:
    if path.startswith(("/", "../")) or path == "..":
        raise MediaError("missing", "a path that leads out of the folder of videos")
    return path


def open_object_videos(url: str) -> ObjectVideos:
    """List the videos below a URL, once; of a web server nothing is asked.

    Raises:
        UserError: it cannot be listed, holds nothing, or a name in it leads out of a folder.
    """
    shown = redacted(url)
    if is_archive(url.partition("?")[0]):
        raise UserError(f"--videos {shown}: archives are read from disks, not from object storage; download it")
    folder = open_folder(url)
    if not folder.is_listed:
        return ObjectVideos(url, None)
    files = {}
    for path, stored in folder.list_files().items():
        if path.endswith("/"):  # what some programs write for a folder
            continue
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") or len(part.encode()) > _MAX_NAME_BYTES for part in parts):
            raise UserError(f"--videos {shown}: {path!r} in it is no name of a file; name it otherwise")
        files[path] = stored
    if not files:
        raise UserError(f"--videos {shown}: nothing is below it; check the URL")
    return ObjectVideos(url, files)
