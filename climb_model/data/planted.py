"""A finding planted in a breast, and where on the clock each quadrant lies."""

from __future__ import annotations

from dataclasses import dataclass

from climb_model.data.wordings import lexicon

QUADRANTS = ("oben außen", "oben innen", "unten außen", "unten innen", "retromamillär")
QUADRANT_DATIVE = {
    "oben außen": "oberen äußeren Quadranten",
    "oben innen": "oberen inneren Quadranten",
    "unten außen": "unteren äußeren Quadranten",
    "unten innen": "unteren inneren Quadranten",
}
"""As said after `im`."""
_RIGHT_HOURS = {
    # seen from the front; the outer half of the right breast is at 9 o'clock
    "oben außen": (9, 10, 11, 12),
    "oben innen": (12, 1, 2, 3),
    "unten außen": (6, 7, 8, 9),
    "unten innen": (3, 4, 5, 6),
    "retromamillär": tuple(range(1, 13)),
}


@dataclass(frozen=True)
class Planted:
    """A finding that was planted in the images of a breast."""

    finding: str
    size_mm: float
    """Largest diameter."""

    quadrant: str
    """One of `QUADRANTS`."""

    num: int
    """How many of its kind; the position is that of the largest."""

    clock: int
    """1 to 12, seen from the front. Not told for `retromamillär`."""

    def __post_init__(self) -> None:
        if self.finding not in lexicon():
            raise ValueError(f"a planted finding is one of {', '.join(lexicon())}, got {self.finding!r}")
        if self.quadrant not in QUADRANTS:
            raise ValueError(f"a quadrant is one of {', '.join(QUADRANTS)}, got {self.quadrant!r}")
        if not 0.0 < self.size_mm < 200.0:
            raise ValueError(f"a finding's size must be above 0 and below 200 mm, got {self.size_mm}")
        if self.num < 1:
            raise ValueError(f"a planted finding's number must be >= 1, got {self.num}")
        if not 1 <= self.clock <= 12:
            raise ValueError(f"a clock position is 1 to 12, got {self.clock}")


def clock_hours(quadrant: str, side: str) -> tuple[int, ...]:
    """Hours that agree with a quadrant, seen from the front; the first and last lie on its border.

    Raises:
        ValueError: for an unknown quadrant or side.
    """
    if quadrant not in QUADRANTS:
        raise ValueError(f"a quadrant is one of {', '.join(QUADRANTS)}, got {quadrant!r}")
    check_side(side)
    hours = _RIGHT_HOURS[quadrant]
    if side == "right" or quadrant == "retromamillär":
        return hours
    return tuple((12 - hour) or 12 for hour in reversed(hours))


def check_side(side: str) -> None:
    """Raise ValueError unless the side is `left` or `right`."""
    if side not in ("left", "right"):
        raise ValueError(f"a side is 'left' or 'right', got {side!r}")
