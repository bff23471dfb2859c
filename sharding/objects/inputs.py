"""Small files that a command reads, such as annotations, of which some may be elsewhere."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sharding.archives.locations import is_url
from sharding.errors import UserError, redacted
from sharding.objects.folder import open_folder

_MAX_BYTES = 2 << 30


@contextmanager
def local_files(locations: Sequence[str | Path]) -> Iterator[tuple[Path, ...]]:
    """Yield each file, or a copy of its name where a URL is given. In what is raised within, it is the URL again.

    Raises:
        UserError: one cannot be had.
    """
    if not any(map(is_url, locations)):
        yield tuple(map(Path, locations))
        return
    with tempfile.TemporaryDirectory(prefix="vpsn-inputs-") as scratch:
        shown: dict[str, str] = {}
        paths = []
        for number, location in enumerate(locations):
            if is_url(location):
                path = _fetch(str(location), Path(scratch) / str(number))
                shown[str(path)] = redacted(str(location))
                paths.append(path)
            else:
                paths.append(Path(location))
        try:
            yield tuple(paths)
        except UserError as error:
            text = str(error)
            for path, url in shown.items():
                text = text.replace(path, url)
            raise UserError(text) from error


def _fetch(url: str, folder: Path) -> Path:
    parts = urlsplit(url)
    parent, _, name = parts.path.rpartition("/")
    if not name or (not parent and parts.scheme not in ("http", "https") and not parts.netloc):
        raise UserError(f"{redacted(url)}: the URL of a file is expected, such as s3://bucket/train.csv")
    folder.mkdir()
    open_folder(urlunsplit(parts._replace(path=parent))).fetch(name, folder / name, None, _MAX_BYTES)
    return folder / name
