"""Versions of this project and of the packages that it uses."""

from importlib.metadata import PackageNotFoundError, version

VERSION = "0.2.0"
"""Version of this project, as in pyproject.toml."""


def version_of(name: str) -> str:
    """Return the version of the package `name`, "unknown" where it bears none.

    A checkout that was never installed has no metadata, and neither has a package that somebody built into a container
    by hand; both work.
    """
    if name == "vpsn":
        return VERSION
    try:
        return version(name) or "unknown"
    except PackageNotFoundError:
        return "unknown"
