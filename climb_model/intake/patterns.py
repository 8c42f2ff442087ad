"""Which series a site's mapping file names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from climb_model.intake.study import Series, Stack


def matches(series: Series, patterns: Sequence[str]) -> bool:
    """Whether description or protocol name, in any case, is as one of the patterns says."""
    names = (series.description.casefold().strip(), series.protocol.casefold().strip())
    return any(fnmatchcase(name, pattern.casefold()) for pattern in patterns for name in names if name)


def first_match(stacks: Sequence[Stack], patterns: Sequence[str]) -> list[Stack]:
    """The stacks that the first pattern matches that matches any."""
    for pattern in patterns:
        matched = [stack for stack in stacks if matches(stack.series, (pattern,))]
        if matched:
            return matched
    return []
