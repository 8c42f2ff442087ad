"""Names of studies and sites, for what must start without torch."""

from __future__ import annotations

import re

from configs.errors import UserError

NAME_PATTERN = re.compile(r"\w[\w.\-]{0,63}")
"""Names of studies and sites: they become names of folders and of TensorBoard's curves."""


class RunError(UserError):
    """A run that cannot start, go on or be read; one line."""


def check_name(kind: str, name: object) -> str:
    """A study's or site's name, if it can be a folder's name.

    Raises:
        RunError: otherwise; the name itself is shown shortened and escaped.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise RunError(
            f"a {kind} is named with 1 to 64 letters, digits, '_', '-' and '.', got {ascii(name)[:40]}"
        )
    return name
