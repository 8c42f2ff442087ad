"""Which series a site's mapping file names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from climb_model.intake.sequences.series_words import unwanted
from climb_model.intake.study import Series, Stack


def matches(series: Series, patterns: Sequence[str]) -> bool:
    """Whether description or protocol name, in any case, is as one of the patterns says."""
    names = (series.description.casefold().strip(), series.protocol.casefold().strip())
    return any(fnmatchcase(name, pattern.casefold()) for pattern in patterns for name in names if name)


def all_matches(stacks: Sequence[Stack], patterns: Sequence[str]) -> list[Stack]:
    """The stacks that any pattern matches.

    What the rules never take, such as a subtraction under the pattern `*dyn*`, counts only where the
    patterns match nothing else.
    """
    matched = [stack for stack in stacks if matches(stack.series, patterns)]
    return [stack for stack in matched if not unwanted(stack)] or matched


def first_match(stacks: Sequence[Stack], patterns: Sequence[str]) -> list[Stack]:
    """As `all_matches`, of the first pattern that matches anything."""
    return next((found for pattern in patterns if (found := all_matches(stacks, (pattern,)))), [])
