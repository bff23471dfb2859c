"""Where shards that others made are, and how the folder of their table comes by them.

A manifest names shards as files of its own folder, never by a path. Where they are elsewhere, the folder has a link for
each, or the file `shards.url`, whose only line is the URL of theirs.
"""

from collections.abc import Sequence
from pathlib import Path

from sharding.archives.locations import FileAt, is_url, list_folder, local_file
from sharding.dataset import SHARDS_URL
from sharding.errors import UserError, redacted
from sharding.files import write_atomically
from sharding.manifest_checks import is_shard_name

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_shards(given: Sequence[str], out: Path | None) -> tuple[list[FileAt], Path]:
    """Return the shards that folders, files or a URL mean, and the folder for their table.

    Raises:
        UserError: there are none, two of one name, or no folder is said for the table.
    """
    if any(map(is_url, given)):
        return _find_remote(given, out)
    files = [file for place in given for file in _find_local(place)]
    folders = {str(Path(file.location).parent) for file in files}
    names: dict[str, FileAt] = {}
    for file in files:
        if not is_shard_name(file.name):
            raise UserError(f"{file.shown}: letters, digits, '.', '_' and '-' are possible in names; name it otherwise")
        if file.name in names:
            raise UserError(
                f"{names[file.name].shown} and {file.shown}: two shards of one name; index their folders one by one"
            )
        names[file.name] = file
    if out is None and len(folders) > 1:
        raise UserError(f"shards of {len(folders)} folders; give --out for the folder of their table")
    first = Path(given[0])
    return files, out or (first if first.is_dir() else first.parent)


def bind_shards(directory: Path, files: Sequence[FileAt]) -> None:
    """Let shards be found from the folder of their table: by links, or by the URL of their folder.

    Raises:
        UserError: another file has the name of one; then nothing was made.
    """
    if is_url(files[0].location):
        write_atomically(directory / SHARDS_URL, files[0].location.rpartition("/")[0] + "\n")
        return
    links = {directory / file.name: Path(file.location) for file in files}
    new = {link: target for link, target in links.items() if not (link.exists() and link.samefile(target))}
    for link in new:
        if link.exists() or link.is_symlink():
            raise UserError(f"{link}: another file has the name of a shard; give an empty --out")
    for link, target in new.items():
        link.symlink_to(target)


def _find_local(place: str) -> list[FileAt]:
    path = Path(place)
    if path.is_file():
        if path.suffix != ".tar":
            raise UserError(f"{path}: no .tar file{_about_compression(path.name)}")
        return [local_file(path)]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    files = list_folder(place, ".tar")
    if not files:
        others = [child.name for child in sorted(path.iterdir()) if child.name.endswith(_COMPRESSED)]
        raise UserError(f"{path}: no .tar files in it{_about_compression(next(iter(others), ''))}")
    return files


def _about_compression(name: str) -> str:
    if not name.endswith(_COMPRESSED):
        return "; give a folder of WebDataset shards"
    return f"; {name} is compressed, and parts of it cannot be read: uncompress it, or pack it with `pack --videos`"


def _find_remote(given: Sequence[str], out: Path | None) -> tuple[list[FileAt], Path]:
    if len(given) > 1:
        raise UserError("index: more than one place, and one is a URL; index them one by one")
    [url] = given
    if out is None:
        raise UserError(f"{redacted(url)}: give --out for the folder of the table, on this machine")
    if redacted(url) != url:
        raise UserError(
            f"{redacted(url)}: it would be kept in a file, with what is secret in it; give a URL without user and "
            "query, and the credentials in the environment or in fsspec's configuration"
        )
    files = list_folder(url, ".tar")
    if not files:
        raise UserError(f"{url}: no .tar files in it; give the URL of a folder of WebDataset shards")
    for file in files:
        if not is_shard_name(file.name):
            raise UserError(f"{file.shown}: letters, digits, '.', '_' and '-' are possible in names; name it otherwise")
    return files, out
