"""A site's clock and its server's: how far apart they are, and a time that both keep."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime

MOST_AHEAD_S = 5.0
"""Flower refuses a message of a site whose clock is further ahead of the server's."""

REPLY_SPARE_S = 30.0
"""A message lives so much longer than its deadline, so that a reply of the last second can still be fetched.
A site works until the deadline only: what it began later would cost it the next round as well."""

_DATE_STEP_S = 1.0
"""HTTP's Date tells whole seconds, cut."""


def clock_offset(date: str | None, before: float, after: float) -> float | None:
    """This machine's clock less a server's, in seconds, known to about 1 s; None if `date` is no date.

    Args:
        date: the header `Date` of its answer.
        before: this machine's time when the request was sent, in seconds of the epoch.
        after: the same when the answer was there.
    """
    try:
        offset = (before + after) / 2 - parsedate_to_datetime(date or "").timestamp() - _DATE_STEP_S / 2
    except (ValueError, TypeError, OverflowError):  # whatever the server calls a date
        return None
    return offset if math.isfinite(offset) else None
