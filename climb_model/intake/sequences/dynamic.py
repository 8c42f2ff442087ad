"""The dynamic series of a study: which volumes were acquired before contrast and which after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from statistics import median

from climb_model.intake.sequences.grid import covered, same_grid
from climb_model.intake.sequences.runs import PRE, find_runs, in_time, seconds_after
from climb_model.intake.sequences.series_words import calls
from climb_model.intake.study import SeriesError, Stack

FAST_S = 15.0
"""Phases less far apart are a time-resolved series, which is taken only where there is no other."""

NAME_IT = "name Pre and Post, or dynamic, in the mapping file: --mapping"
"""What a site's admin can do where the rules cannot decide."""

_ELSEWHERE = 0.5
"""Two dynamic series are of different places if less of one lies within the other."""


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """One dynamic series."""

    stacks: tuple[Stack, ...]
    """In the order of time."""

    places: tuple[int, ...]
    """Which phase each stack is, from 1; a number is missing where a phase could not be read."""

    num_phases: int
    num_before: int
    """How many phases were acquired before contrast; the last of these is Pre."""

    how: str

    def __post_init__(self) -> None:
        for place, what in ((self.num_before, "last before"), (self.num_before + 1, "first after")):
            if place not in self.places:
                raise SeriesError(
                    f"phase {place} of {self.num_phases} of the dynamic series, the {what} contrast, "
                    "is missing or damaged"
                )

    @property
    def pre(self) -> Stack:
        return self.stacks[self.places.index(self.num_before)]

    @property
    def named(self) -> dict[str, tuple[int, Stack]]:
        """`Pre`, `Post_1` to `Post_n` with phase and stack; a number is missing with its phase."""
        return {
            "Pre" if place == self.num_before else f"Post_{place - self.num_before}": (place, stack)
            for place, stack in zip(self.places, self.stacks, strict=True)
            if place >= self.num_before
        }


def find_dynamic(stacks: Sequence[Stack], pre_phases: int, *, named: bool = False) -> Dynamic:
    """The dynamic series among T1 volumes.

    Of several the one with most phases, of equally long ones the latest, is taken.

    Args:
        stacks: T1 volumes.
        pre_phases: how many phases of a dynamic series were acquired before contrast.
        named: whether a mapping file says that the stacks hold the phase before contrast too.

    Raises:
        SeriesError: there is none, or it cannot be told which phases were acquired before contrast.
    """
    runs, faults = find_runs(stacks)
    found: list[Dynamic] = []
    for run in runs:
        try:
            one = _with_pre(run, stacks, pre_phases, named)
            if one is not None:
                if not named:
                    _check_contrast(one)
                found.append(one)
        except SeriesError as error:
            faults.append((len(run), error))
    longest = max((len(one.stacks) for one in found), default=0)
    for length, error in sorted(faults, key=itemgetter(0), reverse=True):
        if length > longest:  # never a lesser series in the place of the one that is refused
            raise error
    if not found:
        raise SeriesError(_none_found(stacks, pre_phases))
    return best(found)


def best(found: Sequence[Dynamic]) -> Dynamic:
    """The longest dynamic series, of equally long ones the latest.

    Raises:
        SeriesError: two of them show different places, such as one breast each.
    """
    longest = max(_worth(one) for one in found)
    finalists = [one for one in found if _worth(one) == longest]
    for one, other in pairwise(finalists):
        sides = {one.pre.series.laterality, other.pre.series.laterality}
        if sides == {"L", "R"} or covered(one.pre, other.pre) < _ELSEWHERE:
            raise SeriesError(f"2 dynamic series show different places, such as one breast each; {NAME_IT}")
    latest = finalists[0]
    for one in finalists[1:]:
        if seconds_after(one.pre, latest.pre) == 0:
            raise SeriesError(f"2 dynamic series of equal length were acquired at the same time; {NAME_IT}")
        latest = one if _later(one.pre, latest.pre) else latest
    repeats = [one for one in found if same_place(one, latest)]
    if len(repeats) == 1:
        return latest
    choice = "the longest taken" if len(finalists) == 1 else "the latest of the longest taken"
    return replace(latest, how=f"{latest.how}; {len(repeats)} dynamic series, {choice}")


def same_place(one: Dynamic, other: Dynamic) -> bool:
    """Whether two dynamic series show the same part of the patient."""
    return covered(one.pre, other.pre) >= _ELSEWHERE


def after_pre(pre: Sequence[Stack], posts: Sequence[Stack], how: str) -> Dynamic:
    """A dynamic series whose pre-contrast volume is one of `pre`: the latest before the first of `posts`.

    Raises:
        SeriesError: nothing tells their order, or none of `pre` was acquired before the others.
    """
    ordered = in_time(posts)
    grid = [stack for stack in pre if same_grid(stack, ordered[0])]
    before = [stack for stack in grid or pre if _before(stack, ordered[0])]
    if not before:
        raise SeriesError("no volume before contrast was acquired earlier than the first one after contrast")
    latest = in_time(before)[-1]
    places, num_phases = _places(ordered)
    return Dynamic(
        stacks=(latest, *ordered),
        places=(1, *(place + 1 for place in places)),
        num_phases=num_phases + 1,
        num_before=1,
        how=how,
    )


def _with_pre(run: Sequence[Stack], stacks: Sequence[Stack], pre_phases: int, named: bool) -> Dynamic | None:
    """A run with the volume before contrast, its own or that of another series; None for a single volume."""
    attached = None if named else _after_contrast(run, stacks)
    if attached is not None:
        return attached
    places, num_phases = _places(run)
    if num_phases <= pre_phases:
        return None
    late = [place for place, stack in zip(places, run, strict=True) if calls(stack.series) == PRE]
    if late and late[-1] > pre_phases and not named:
        raise SeriesError(
            f"phase {late[-1]} is called pre-contrast, but pre_phases is {pre_phases}; {NAME_IT}"
        )
    parts = len({stack.series.uid for stack in run})
    how = "the dynamic series" if parts == 1 else f"the dynamic series of {parts} series"
    return Dynamic(stacks=tuple(run), places=places, num_phases=num_phases, num_before=pre_phases, how=how)


def _after_contrast(run: Sequence[Stack], stacks: Sequence[Stack]) -> Dynamic | None:
    """A run called post-contrast with the volume before it; None for a run with a phase of its own before.

    A run called pre-contrast at its beginning, or `1+5`, holds its own. One that is called neither does so
    too, unless a volume beside it is called pre-contrast: then nobody knows.
    """
    said = calls(run[0].series)
    if "pre" in said:
        return None
    own = {id(stack) for stack in run}
    beside = [stack for stack in stacks if id(stack) not in own and same_grid(stack, run[0])]
    native = [stack for stack in beside if calls(stack.series) == PRE and _before(stack, run[0])]
    if "post" in said and (native or "dynamic" not in said):
        earlier = native or [stack for stack in beside if _surely_before(stack, run[0])]
        if not earlier:
            raise SeriesError(
                "the dynamic series is called post-contrast, and no T1 volume of its geometry "
                f"was acquired before it: it is absent, damaged or not known by its name; {NAME_IT}"
            )
        if not native and len(earlier) > 1:
            raise SeriesError(f"{len(earlier)} T1 volumes could be the one before contrast; {NAME_IT}")
        how = "the post-contrast series and the T1 volume of the same geometry before it"
        return after_pre(earlier, run, how)
    if native and len(run) > 1:
        raise SeriesError(
            "a volume beside the dynamic series is called pre-contrast, "
            f"and the first phase may be so too; {NAME_IT}"
        )
    return None


def _places(run: Sequence[Stack]) -> tuple[tuple[int, ...], int]:
    """Phase of each stack and number of phases, with those of a series that could not be read."""
    if len({stack.series.uid for stack in run}) == 1:
        return tuple(stack.phase for stack in run), run[0].num_phases
    return tuple(range(1, len(run) + 1)), len(run)


def _check_contrast(one: Dynamic) -> None:
    """Series that tell a contrast agent must be those after contrast; all or none of them tell nothing."""
    told = [stack.series.contrast for stack in one.stacks]
    if all(told) or not any(told):
        return
    first = told.index(True)
    if not all(told[first:]):
        raise SeriesError("a contrast agent is told for a phase and not for a later one")
    if one.places[first] != one.num_before + 1:
        raise SeriesError(
            f"a contrast agent is told from phase {one.places[first]} on, "
            f"but pre_phases says {one.num_before} before contrast"
        )


def _worth(one: Dynamic) -> tuple[bool, int]:
    steps = [seconds_after(earlier, later) for earlier, later in pairwise(one.stacks)]
    known = [step for step in steps if step is not None]
    return not known or median(known) >= FAST_S, len(one.stacks)


def _before(one: Stack, other: Stack) -> bool:
    """Whether a volume that is called pre-contrast was: unless the clock contradicts."""
    seconds = seconds_after(one, other)
    return seconds is None or seconds > 0


def _surely_before(one: Stack, other: Stack) -> bool:
    seconds = seconds_after(one, other)
    return seconds is not None and seconds > 0


def _later(one: Stack, other: Stack) -> bool:
    """By the clock, else by the number of the series."""
    seconds = seconds_after(other, one)
    if seconds is not None:
        return seconds > 0
    return (one.series.number or 0, one.series.uid) > (other.series.number or 0, other.series.uid)


def _none_found(stacks: Sequence[Stack], pre_phases: int) -> str:
    if not stacks:
        return f"no T1 volume in this study; {NAME_IT}"
    return (
        f"no dynamic series: wanted more than {pre_phases} T1 phases of one geometry, "
        f"got {len(stacks)} volumes; {NAME_IT}"
    )
