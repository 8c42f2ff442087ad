"""Whether a phase of the dynamic series is lost, so that the others would be named wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from climb_model.intake.dicom.kinds import no_slice, not_acquired
from climb_model.intake.sequences.dynamic import NAME_IT, Dynamic
from climb_model.intake.sequences.grid import same_grid, same_slices
from climb_model.intake.sequences.runs import PRE, seconds_after, seconds_between
from climb_model.intake.sequences.series_words import MIN_SLICES, calls, family, tells_minutes, told_phase
from climb_model.intake.study import Frame, Series, SeriesError, Stack, Study

_MIN_REPEAT = 3
"""Fewer volumes of one grid are no repeat of the dynamic series: two phases may lose the same slice."""


def check_lost(
    study: Study, stacks: Sequence[Stack], beside: Sequence[Stack], dynamic: Dynamic, *, by_mapping: bool
) -> None:
    """Refuse a dynamic series from which a phase before the last one may be lost.

    Args:
        study: with the series of which nothing could be read, and those torn between studies.
        stacks: all volumes of the study.
        beside: volumes that may be phases; those of the dynamic series may be among them.
        dynamic: the dynamic series as found.
        by_mapping: whether the mapping file names all of its phases.

    Raises:
        SeriesError: a series named like the phases gave no volume, a volume beside them has a part of their
            slices or no contrast agent where all of them have one, or their numbers have a gap.
    """
    _check_unread(study, stacks, dynamic)
    _check_numbers(dynamic)
    own = {id(stack) for stack in dynamic.stacks}
    others = [
        stack
        for stack in (*beside, *_few_slices(stacks, dynamic))
        if id(stack) not in own and _may_be_earlier(stack, dynamic)
    ]
    _check_slices(others, dynamic)
    if not by_mapping:
        _check_contrast(others, dynamic)


def _check_unread(study: Study, stacks: Sequence[Stack], dynamic: Dynamic) -> None:
    """Where each phase is a series of its own, a damaged one must not move the others forward."""
    if _num_series(dynamic) == 1:
        return
    read = {stack.series.uid for stack in stacks}
    families = {family(stack.series) for stack in dynamic.stacks}
    for series in (*study.series, *study.torn):
        if series.uid in read or family(series) not in families:
            continue
        if all(no_slice(frame) or not_acquired(frame) for frame in series.frames):
            continue
        if not _surely_after(series, dynamic.stacks[-1]):
            raise SeriesError(
                "a series named like the phases of the dynamic one could not be read; "
                "which phase is missing is not known"
            )


def _surely_after(series: Series, last: Stack) -> bool:
    first = series.frames[0]
    clocks = {"acquisition time": first.acquired_s, "content time": first.content_s}
    began = clocks.get(last.time_from)
    return began is not None and last.time_s is not None and seconds_between(last.time_s, began) > 0


def _num_series(dynamic: Dynamic) -> int:
    return len({stack.series.uid for stack in dynamic.stacks})


def _few_slices(stacks: Sequence[Stack], dynamic: Dynamic) -> list[Stack]:
    """Volumes too small to be a sequence that are named like the phases: the rest of one of them."""
    families = {family(stack.series) for stack in dynamic.stacks}
    return [stack for stack in stacks if len(stack.frames) < MIN_SLICES and family(stack.series) in families]


def _may_be_earlier(stack: Stack, dynamic: Dynamic) -> bool:
    """Whether a volume is of the dynamic series' kind and not acquired after its last phase."""
    last = dynamic.stacks[-1]
    if stack.frames[0].echo_ms != last.frames[0].echo_ms:
        return False
    seconds = seconds_after(last, stack)
    return seconds is None or seconds <= 0


def _check_slices(others: Sequence[Stack], dynamic: Dynamic) -> None:
    """A phase without its first or last slice lies on the dynamic series' slices and on no grid of it."""
    first = dynamic.stacks[0]
    for other in others:
        if same_grid(other, first) or not same_slices(other, first) or _is_repeat(other, others, dynamic):
            continue
        if _num_series(dynamic) > 1 or _may_be_pre(other, dynamic):
            raise SeriesError(
                "beside the dynamic series lies a T1 volume with a part of its slices: slices of a phase "
                f"are missing or damaged, and which phase it is is not known; ignore it or {NAME_IT}"
            )


def _is_repeat(other: Stack, others: Sequence[Stack], dynamic: Dynamic) -> bool:
    """Whether a volume belongs to a dynamic series of its own, acquired before."""
    if other.num_phases > 1:
        return True
    alike = [stack for stack in others if same_grid(stack, other)]
    ahead = [seconds_after(stack, dynamic.stacks[0]) for stack in alike]
    enough = len(alike) >= max(_MIN_REPEAT, len(dynamic.stacks))
    return enough and all(seconds is not None and seconds > 0 for seconds in ahead)


def _may_be_pre(other: Stack, dynamic: Dynamic) -> bool:
    """Whether the volume before contrast may be missing from one series of several phases."""
    first = dynamic.stacks[0]
    seconds = seconds_after(first, other)
    if "pre" in calls(first.series) or other.num_phases > 1 or (seconds is not None and seconds >= 0):
        return False
    return calls(other.series) == PRE or family(other.series) == family(first.series)


def _check_contrast(others: Sequence[Stack], dynamic: Dynamic) -> None:
    """Where every phase tells a contrast agent and a volume beside tells none, that one may be Pre."""
    first = dynamic.stacks[0]
    if not all(stack.series.contrast for stack in dynamic.stacks) or "pre" in calls(first.series):
        return
    if told_phase(first.series) in (0, 1) and "post" not in calls(first.series):
        return
    for other in others:
        seconds = seconds_after(first, other)
        if other.series.contrast or other.num_phases > 1 or (seconds is not None and seconds >= 0):
            continue
        if same_slices(other, first):
            raise SeriesError(
                "a contrast agent is told for all phases of the dynamic series and not for a T1 volume of "
                f"its slices: which one is before contrast is not known; {NAME_IT}"
            )


def _check_numbers(dynamic: Dynamic) -> None:
    """Numbers of phases that descriptions or tags tell must count on from 0 or 1."""
    if _num_series(dynamic) > 1:
        _check_described(dynamic)
    tags: dict[str, Callable[[Frame], int | None]] = {
        "temporal positions": lambda frame: frame.temporal_position,
        "acquisition numbers": lambda frame: frame.acquisition_number,
    }
    for what, tag in tags.items():
        numbers = [_one_value(map(tag, stack.frames)) for stack in dynamic.stacks]
        if _num_series(dynamic) > 1 and what == "acquisition numbers" and _scan_numbers(dynamic, numbers):
            continue
        known = [number for number in numbers if number is not None]
        if len(set(known)) < len(numbers):
            continue
        offsets = {number - place for number, place in zip(known, dynamic.places, strict=True)}
        if len(offsets) > 1 or not offsets <= {-1, 0}:
            raise _numbers_error(what)


def _check_described(dynamic: Dynamic) -> None:
    """`Ph2` may follow a phase without a number, `post 2` may not."""
    told = [
        (number, place, "post" in calls(stack.series))
        for stack, place in zip(dynamic.stacks, dynamic.places, strict=True)
        if (number := told_phase(stack.series)) is not None and not tells_minutes(stack.series)
    ]
    numbers = sorted({number for number, _, _ in told})
    if not numbers:
        return
    number, place, post = told[0]
    begins = numbers[0] <= 1 or (number == place and not post)
    if not begins or numbers[-1] - numbers[0] != len(numbers) - 1:
        raise _numbers_error("phase numbers in the descriptions")


def _scan_numbers(dynamic: Dynamic, numbers: Sequence[int | None]) -> bool:
    """Whether acquisition numbers are those of the exam's scans (series 701 is of scan 7), not of phases."""
    series = [stack.series.number for stack in dynamic.stacks]
    return any(
        number is not None and one is not None and number in (one, one // 100)
        for one, number in zip(series, numbers, strict=True)
        if number != 1
    )


def _one_value(values: Iterable[int | None]) -> int | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _numbers_error(what: str) -> SeriesError:
    return SeriesError(
        f"{what} of the dynamic series have a gap or do not begin at 0 or 1: a phase is missing or damaged"
    )
