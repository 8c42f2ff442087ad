"""Which program made a run, with which libraries, and on which day."""

from __future__ import annotations

import platform
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROGRAM = "climb-federated"
_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
UNKNOWN = "unknown"
"""The version where nothing tells it."""

LIBRARIES = ("torch", "flwr", "transformers", "x-transformers")
"""Whose versions the parties of a study tell each other."""


def program_version() -> str:
    """The version of the code that runs, or `UNKNOWN`.

    A checkout, an image and a bundle hold their `pyproject.toml` beside the packages: an approved bundle
    is of its own version, whatever is installed. Without one the version is that of the installation.
    """
    try:
        project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
        if project["name"] == PROGRAM:
            return str(project["version"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # of an installation, in whose folder the file is not there or another program's
    return _version_of(PROGRAM)


def library_versions() -> dict[str, str]:
    """The version of Python and of each of `LIBRARIES`."""
    return {"python": platform.python_version(), **{name: _version_of(name) for name in LIBRARIES}}


def made_by() -> dict[str, str]:
    """`version` of the program and `date` (UTC, ISO 8601), as they stand in a summary."""
    return {"version": program_version(), "date": datetime.now(UTC).date().isoformat()}


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return UNKNOWN
