"""The order in time of volumes of several series, and which of them may be one dynamic series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from climb_model.intake.sequences.grid import same_grid
from climb_model.intake.sequences.series_words import calls, family, told_phase
from climb_model.intake.study import SeriesError, Stack

DAY_S = 86_400.0
CLOCKS = ("acquisition time", "content time")
"""Sources of a time that can be compared between series."""

PRE = frozenset({"pre"})
"""What is said of a volume that is called pre-contrast and nothing else."""


Fault = tuple[int, SeriesError]
"""Number of volumes and why they are no dynamic series."""


def seconds_after(first: Stack, second: Stack) -> float | None:
    """Seconds from the first stack to the second, within half a day; None where no clock tells.

    An examination over midnight goes on: 0:05 is 10 minutes after 23:55.
    """
    if first.time_s is None or second.time_s is None or first.time_from != second.time_from:
        return None
    if first.series.uid != second.series.uid and first.time_from not in CLOCKS:
        return None
    return seconds_between(first.time_s, second.time_s)


def seconds_between(first_s: float, second_s: float) -> float:
    """Seconds from one time of day to another, within half a day."""
    return (second_s - first_s + DAY_S / 2) % DAY_S - DAY_S / 2


def in_time(stacks: Sequence[Stack]) -> list[Stack]:
    """Stacks of one geometry in the order in which they were acquired.

    Within a series its phases count, between series their clock, else their temporal positions, else the
    phase numbers that their descriptions tell.

    Raises:
        SeriesError: nothing tells the order.
    """
    if len({stack.series.uid for stack in stacks}) == 1:
        return sorted(stacks, key=lambda stack: stack.phase)
    clock = [seconds_after(stacks[0], stack) for stack in stacks]
    positions = [stack.frames[0].temporal_position for stack in stacks]
    for keys in (clock, positions, [told_phase(stack.series) for stack in stacks]):
        known = [key for key in keys if key is not None]
        if len(set(known)) == len(stacks):
            return [stacks[place] for place in sorted(range(len(stacks)), key=known.__getitem__)]
    raise SeriesError(
        f"neither times nor phase numbers tell the order of {len(stacks)} T1 volumes of one geometry"
    )


def find_runs(stacks: Sequence[Stack]) -> tuple[list[list[Stack]], list[Fault]]:
    """Sets of stacks that may be one dynamic series each, in the order of time; and why others may not.

    A series of several phases is a run of its own. Series of one phase form a run where grid, echo time
    and description (but for numbers and words like pre and post) are the same; it is divided where a
    phase number comes again or a volume called pre-contrast follows one called post-contrast: the dynamic
    series was repeated.
    """
    of_series = _groups([stack for stack in stacks if stack.num_phases > 1], _of_one_series)
    runs = [in_time(group) for group in of_series]
    single = [stack for stack in stacks if stack.num_phases == 1]
    faults: list[Fault] = []
    for group in _groups(single, _named_alike):
        try:
            for run in _divided(in_time(group)):
                _check_numbers(run)
                runs.append(run)
        except SeriesError as error:
            faults.append((len(group), error))
    return runs, faults


def _of_one_series(one: Stack, other: Stack) -> bool:
    kinds = one.frames[0].image_type, other.frames[0].image_type
    return one.series.uid == other.series.uid and kinds[0] == kinds[1]


def _named_alike(one: Stack, other: Stack) -> bool:
    return family(one.series) == family(other.series)


def _groups(stacks: Sequence[Stack], related: Callable[[Stack, Stack], bool]) -> list[list[Stack]]:
    """Related stacks of one grid and echo time."""
    groups: list[list[Stack]] = []
    for stack in stacks:
        for group in groups:
            same_echo = group[0].frames[0].echo_ms == stack.frames[0].echo_ms
            if related(group[0], stack) and same_echo and same_grid(group[0], stack):
                group.append(stack)
                break
        else:
            groups.append([stack])
    return groups


def _divided(stacks: Sequence[Stack]) -> list[list[Stack]]:
    """Cut where a repeat begins."""
    runs: list[list[Stack]] = [[]]
    for stack in stacks:
        seen = [told_phase(other.series) for other in runs[-1]]
        after_contrast = any("post" in calls(other.series) for other in runs[-1])
        number = told_phase(stack.series)
        again = number is not None and number > 0 and number in seen
        if again or (calls(stack.series) == PRE and after_contrast):
            runs.append([])
        runs[-1].append(stack)
    return runs


def _check_numbers(run: Sequence[Stack]) -> None:
    numbers = [number for number in (told_phase(stack.series) for stack in run) if number is not None]
    if any(later < earlier for earlier, later in pairwise(numbers)):
        raise SeriesError("acquisition times and the phase numbers in the descriptions contradict each other")
