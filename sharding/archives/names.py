"""A folder of empty files with the names of videos that are elsewhere, for readers of annotations to look at."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sharding.errors import UserError


@contextmanager
def names_folder(paths: Iterable[str], shown: str) -> Iterator[Path]:
    """Yield a folder of empty files. In what is raised within, `shown` stands for its name."""
    with tempfile.TemporaryDirectory(prefix="vpsn-names-") as scratch:
        root = Path(scratch) / "videos"
        root.mkdir()
        _write_names(root, paths, shown)
        try:
            yield root
        except UserError as error:
            raise UserError(str(error).replace(str(root), shown)) from error


def _write_names(root: Path, paths: Iterable[str], shown: str) -> None:
    made: set[Path] = set()
    for path in paths:
        target = root / path
        try:
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            target.open("x").close()
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise UserError(f"--videos {shown}: {path!r} in it is both a file and a folder; make it again") from error
