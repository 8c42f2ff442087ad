"""Which program made a run, with which libraries, and on which day."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PROGRAM = "climb-federated"
UNKNOWN = "unknown"
"""The version where the program runs without being installed, as in a bundle of Flower's."""


LIBRARIES = ("torch", "flwr", "transformers", "x-transformers")
"""Whose versions the parties of a study tell each other."""


def program_version() -> str:
    """The version of this program, or `UNKNOWN`."""
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
