"""Versions of this project and of the packages that it uses."""

from importlib.metadata import PackageNotFoundError, version

import launch


def version_of(name: str) -> str:
    """Return the version of the package `name`, "unknown" where it bears none.

    A checkout that was never installed has no metadata, and neither has a package that somebody built into a container
    by hand; both work.
    """
    if name == "vpsn":
        return launch.__version__
    try:
        return version(name) or "unknown"
    except PackageNotFoundError:
        return "unknown"
