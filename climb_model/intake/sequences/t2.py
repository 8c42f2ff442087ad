"""The T2 volume that goes with a pre-contrast one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.sequences.grid import covered, plane, same_grid
from climb_model.intake.sequences.patterns import first_match
from climb_model.intake.sequences.runs import seconds_after
from climb_model.intake.sequences.series_words import fat_saturated
from climb_model.intake.study import Stack

MIN_COVERED = 0.5
"""A T2 volume that covers less of Pre shows another place."""

ANOTHER = "another T2 volume was taken"


@dataclass(frozen=True)
class ChosenT2:
    """The T2 volume, or why there is none."""

    stack: Stack | None = None
    how: str = ""
    missing: str = ""
    """Why there is none; empty where the study simply holds no T2 volume."""

    reasons: Mapping[int, str] = field(default_factory=dict[int, str])
    """id of a stack that was not taken to the reason."""


def choose_t2(stacks: Sequence[Stack], t2: Sequence[Stack], pre: Stack, mapping: SeriesMapping) -> ChosenT2:
    """The T2 volume by the mapping file, else by rule.

    Of several that cover at least half of Pre, in this order: in Pre's plane, without fat saturation, most
    slices; of repeats on one grid the latest. What is then still equal is refused: T2 stays absent.

    Args:
        stacks: all that the mapping file does not ignore and that are not phases of the dynamic series.
        t2: those that the rules take for T2.
        pre: the pre-contrast volume.
        mapping: of this site.
    """
    if mapping.T2:
        candidates, reasons = first_match(stacks, mapping.T2), dict[int, str]()
        if not candidates:
            return ChosenT2(
                missing="no series matches the mapping file's patterns for T2",
                reasons={id(stack): "a T2 volume that the mapping file does not name" for stack in t2},
            )
    else:
        reasons = {
            id(stack): f"a T2 volume of another place: less than {MIN_COVERED:.0%} of Pre lies within it"
            for stack in t2
            if covered(pre, stack) < MIN_COVERED
        }
        candidates = [stack for stack in t2 if id(stack) not in reasons]
    if not candidates:
        return ChosenT2(reasons=reasons)
    rank = max(_rank(stack, pre) for stack in candidates)
    finalists = [stack for stack in candidates if _rank(stack, pre) == rank]
    chosen = _latest_repeat(finalists)
    if chosen is None:
        several = f"{len(finalists)} volumes could be T2: name one in the mapping file: --mapping"
        return ChosenT2(missing=several, reasons=reasons | dict.fromkeys(map(id, candidates), several))
    reasons |= {id(stack): ANOTHER for stack in candidates if stack is not chosen}
    return ChosenT2(chosen, _how(candidates, finalists, chosen), "", reasons)


def _rank(stack: Stack, pre: Stack) -> tuple[bool, bool, int]:
    return plane(stack) == plane(pre), not fat_saturated(stack.series), len(stack.frames)


def _latest_repeat(finalists: Sequence[Stack]) -> Stack | None:
    """The only one, or the latest of the same series acquired again; None where neither is so."""
    latest = finalists[0]
    for stack in finalists[1:]:
        alike = same_grid(stack, latest) and stack.frames[0].echo_ms == latest.frames[0].echo_ms
        seconds = seconds_after(latest, stack)
        if not alike or not seconds or stack.series.uid == latest.series.uid:
            return None
        latest = stack if seconds > 0 else latest
    return latest


def _how(candidates: Sequence[Stack], finalists: Sequence[Stack], chosen: Stack) -> str:
    kind = f"{plane(chosen)}, {'with' if fat_saturated(chosen.series) else 'without'} fat saturation"
    if len(finalists) > 1:
        return f"{kind}, the latest of {len(finalists)} repeats"
    if len(candidates) > 1:
        return f"{kind}, the first of {len(candidates)} by plane, fat saturation and slices"
    return kind
