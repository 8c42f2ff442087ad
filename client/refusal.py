"""What a site answers that does not take part."""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from climb_model.sharing import REFUSAL


def refusal(site: str, line: str) -> RecordDict:
    """The site's name and one line, nothing else.

    Args:
        site: '' if the site does not even know its name.
        line: names no exam, patient or folder; the site's name is put before it where it is missing.
    """
    told = line if f"'{site}'" in line else f"site '{site}': {line}" if site else f"a site {line}"
    return RecordDict({REFUSAL: ConfigRecord({"site": site, REFUSAL: told})})
