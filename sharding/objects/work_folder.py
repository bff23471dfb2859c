"""The folder on this machine that shards are in until they are uploaded: the same for each run that packs to a URL."""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from sharding.errors import UserError


def work_path(parent: Path | None, url: str) -> Path:
    """Return where the folder is for what goes below `url`: in `parent`, or among the temporary files."""
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    return (parent or Path(tempfile.gettempdir())).absolute() / f"vpsn-pack-{digest}"


def work_folder(parent: Path | None, url: str) -> Path:
    """Return the folder, made if it is not there, which only this user can open. Arguments as of `work_path`.

    Raises:
        UserError: it cannot be made, or belongs to somebody else.
    """
    folder = work_path(parent, url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"--work-dir {folder.parent}: cannot be written: {error.strerror}; give another") from error
    # Anybody may make a folder, or a link, of this name among the temporary files.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UserError(f"{folder}: somebody else's, or a link; give --work-dir, a folder of your own")
    if status.st_mode & 0o077:  # as earlier versions made it in some cases
        with contextlib.suppress(PermissionError):  # of file systems that have no modes
            folder.chmod(0o700)
    return folder


def split_folder(url: str, parent: Path | None) -> Path:
    """Return the folder of a split whose shards go to `url`. Raises as `work_folder`."""
    out, _, split = url.rpartition("/")
    return work_folder(parent, out) / split
