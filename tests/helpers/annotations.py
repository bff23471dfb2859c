"""Annotation files as they were published, where they are at hand; they are no part of the project."""

import functools
import tarfile
import tempfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "real" / "annotations.tar.xz"


def real_annotations(dataset: str) -> Path:
    """Return the folder of a dataset's published files; the test is skipped where they are not."""
    if not ARCHIVE.is_file():
        pytest.skip(f"no published annotation files in {ARCHIVE}")
    return Path(_extracted().name) / "annotations" / dataset


@functools.cache
def _extracted() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="vpsn-annotations-")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder.name, filter="data")
    return folder
