"""Which program made a run, and on which day."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PROGRAM = "climb-federated"
UNKNOWN = "unknown"
"""The version where the program runs without being installed, as in a bundle of Flower's."""


def made_by() -> dict[str, str]:
    """`version` of the program and `date` (UTC, ISO 8601), as they stand in a summary."""
    try:
        number = version(PROGRAM)
    except PackageNotFoundError:
        number = UNKNOWN
    return {"version": number, "date": datetime.now(UTC).date().isoformat()}
