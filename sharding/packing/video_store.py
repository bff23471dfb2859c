"""Where the videos of a dataset are: a folder, archives, or object storage. Each kind of place is a `VideoStore`.

The readers of datasets see a folder in any case: of what is no folder, one of empty files with the names in it.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sharding.archives.videos import find_archives, list_archives
from sharding.errors import MediaError, UserError
from sharding.objects.videos import open_object_videos


class VideoStore(Protocol):
    """Gives videos by the paths that records have, relative to the folder of videos. It can be pickled."""

    @property
    def num_ahead(self) -> int:
        """Videos that are fetched, several at the same time, before it is their turn to be encoded."""
        ...

    def as_folder(self) -> AbstractContextManager[Path]:
        """Return a context with the folder that readers of annotations see, with all names in it."""
        ...

    def fetch(self, source: str, folder: Path) -> Path:
        """Return the file, or folder of pictures, of a video: where it is, or a copy in `folder`, which is empty.

        What is not there need not be noticed. Raises MediaError for what cannot be fetched.
        """
        ...

    def subset(self, sources: Iterable[str]) -> "VideoStore":
        """Return a store of these videos alone, such as goes to a worker process."""
        ...

    def is_streamed(self, source: str) -> bool:
        """Return whether a video cannot be fetched but only met, in the order of `stream`."""
        ...

    def stream(self, sources: Iterable[str], folder: Path) -> Iterator[tuple[str, Path | MediaError]]:
        """Yield those of `sources`, all of which are streamed, as they come: with a copy below `folder`, or an error.

        Each copy is in a folder of its own, which whoever asked for it removes.
        """
        ...


@dataclass(frozen=True)
class FolderVideos:
    """Videos that are files in a folder."""

    root: Path
    """Absolute."""
    given: Path
    """As it was typed."""
    num_ahead = 0

    def as_folder(self) -> AbstractContextManager[Path]:
        return nullcontext(self.given)

    def fetch(self, source: str, folder: Path) -> Path:
        return self.root / source

    def subset(self, sources: Iterable[str]) -> "FolderVideos":
        return self

    def is_streamed(self, source: str) -> bool:
        return False

    def stream(self, sources: Iterable[str], folder: Path) -> Iterator[tuple[str, Path | MediaError]]:
        return iter(())


def open_store(videos: Path | str, cache: Path) -> VideoStore:
    """Return the store that --videos means.

    Args:
        videos: a folder of videos; a .tar, .tar.gz, .tgz or .zip, or a folder in one; a folder of such archives alone;
            or the URL of a folder.
        cache: folder for the listings of archives.

    Raises:
        UserError: it is none of these, or an archive is damaged.
    """
    if isinstance(videos, str):
        return open_object_videos(videos)
    archives = find_archives(videos)
    if archives is not None:
        return list_archives(archives, cache, str(videos))
    if not videos.is_dir():
        raise UserError(f"--videos {videos}: no such folder or archive")
    return FolderVideos(videos.absolute(), videos)
