"""The gate of a site: which message is worked on, by which code, and what of the answer leaves."""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from climb_model.sharing import REFUSAL


def refusal(site: str, line: str) -> RecordDict:
    """What a site answers that does not take part: its name and one line, nothing else.

    Args:
        line: names no exam, patient or folder; the site's name is put before it where it is missing.
    """
    told = line if f"'{site}'" in line else f"site '{site}': {line}"
    return RecordDict({"refused": ConfigRecord({"site": site, REFUSAL: told})})
