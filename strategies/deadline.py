"""How long a round waits for its sites: a multiple of what their last replies took, or half of them take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

SLOWEST_BITS_S = 1e6
"""Bits per second that a site's link is assumed to have at least, where nothing was measured."""


class Deadlines:
    """The deadline of each round of one study.

    A site's last sound reply took so many seconds: training, and both ways through the network. The
    payload is the same in every round, so the next one is expected to take as long. A deadline is a
    multiple of the median over the sites that are asked, between a floor and a cap, and never less than the
    median and the payload's time on the slowest link. Of a median, one site that claims or takes too much
    decides nothing. While none of them has been measured it is the cap, until
    half of them have answered: then it is a multiple of the time that these took.
    """

    def __init__(
        self, *, most_s: float, factor: float, least_s: float, taken: Mapping[str, float] | None = None
    ) -> None:
        """
        Args:
            most_s: the cap.
            factor: times the median; 0: every deadline is the cap.
            least_s: the floor; a cap below it wins.
            taken: seconds that each site's last reply took, of a study that goes on.
        """
        self._most_s = most_s
        self._factor = factor
        self._least_s = least_s
        self._taken = dict(taken or {})

    def measured(self, sites: Iterable[str]) -> bool:
        """Whether a round that asks these sites has its deadline from what was measured before."""
        return any(site in self._taken for site in sites)

    def learn(self, site: str, wall_s: float) -> None:
        """Note what a sound reply took."""
        self._taken[site] = wall_s

    def seconds(self, sites: Iterable[str], num_bytes: int) -> float:
        """The deadline of a round that asks these sites, in whole seconds if it is not the cap.

        Args:
            num_bytes: that travel to a site and back.
        """
        expected = [self._taken[site] for site in sites if site in self._taken]
        return self._until(statistics.median(expected), num_bytes) if expected else self._most_s

    def after_half(self, half_s: float, num_bytes: int) -> float:
        """The deadline of a round without measurements, in whole seconds if it is not the cap.

        Args:
            half_s: time in which half of the sites had sent sound replies.
            num_bytes: that travel to a site and back.
        """
        return self._until(half_s, num_bytes)

    def _until(self, typical_s: float, num_bytes: int) -> float:
        """A site that takes as long as is typical, and has the slowest link besides, is in time."""
        if not self._factor:
            return self._most_s
        slowest_s = typical_s + 8 * num_bytes / SLOWEST_BITS_S
        return min(float(math.ceil(max(self._least_s, self._factor * typical_s, slowest_s))), self._most_s)
