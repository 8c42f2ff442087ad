"""T2, Pre and Post_1..n among the volumes of a study: by the site's mapping file, else by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.sequences.dynamic import Dynamic, find_dynamic
from climb_model.intake.sequences.grid import same_grid
from climb_model.intake.sequences.lost import check_lost
from climb_model.intake.sequences.mapped_dynamic import mapped_dynamic
from climb_model.intake.sequences.patterns import matches
from climb_model.intake.sequences.runs import seconds_after
from climb_model.intake.sequences.series_words import unwanted, weighting
from climb_model.intake.sequences.t2 import ANOTHER, choose_t2
from climb_model.intake.study import LeftOut, NamingError, SeriesError, Stack, Study

RULES_VERSION = 2
"""Raised whenever other volumes than before may be chosen."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """The sequences of an exam."""

    sequences: dict[str, Stack]
    """`Pre`, `Post_1` to `Post_n`, and `T2` if there is one."""

    how: dict[str, str]
    """Why each was taken, without a word of free text from a tag."""

    left_out: tuple[LeftOut, ...] = field(repr=False)
    """Everything that was not taken."""

    laterality: str
    """`L` or `R` where the pre-contrast series tells that it shows one breast; else empty."""


def name_stacks(study: Study, stacks: Sequence[Stack], mapping: SeriesMapping) -> Named:
    """Find Pre, Post_1..n and T2 among the volumes of a study.

    Where the mapping file has patterns for a sequence, only what they match is taken; of several patterns
    the first that matches anything counts. Where it has none, the rules of `series_words`, `phases`,
    `dynamic` and `t2` decide. T2 may be absent.

    Raises:
        NamingError: no volume before or after contrast, or it cannot be told which is which; it holds what
            each series was taken for, so that the admin sees which one to name.
        SeriesError: no volume at all.
    """
    if not stacks:
        raise SeriesError(f"no MR volume among the {len(study.series)} series of this study")
    found = _sort(stacks, mapping)
    try:
        dynamic = _dynamic(found, mapping)
        check_lost(study, stacks, _may_be_phases(found, mapping), dynamic, by_mapping=_names_all(mapping))
    except SeriesError as error:
        taken_for = {id(stack): f"taken for T1 by {found.rules[id(stack)]}" for stack in found.t1}
        taken_for |= {id(stack): f"taken for T2 by {found.rules[id(stack)]}" for stack in found.t2}
        raise NamingError(str(error), _left_out(stacks, (), taken_for | dict(found.reasons))) from None
    sequences = {name: stack for name, (_, stack) in dynamic.named.items()}
    how = {
        name: f"phase {place} of {dynamic.num_phases}: {dynamic.how}"
        for name, (place, _) in dynamic.named.items()
    }
    reasons = dict.fromkeys(map(id, found.t1), "a T1 volume beside the dynamic series")
    reasons |= dict.fromkeys(map(id, found.t2), ANOTHER) | dict(found.reasons)
    reasons |= dict.fromkeys(map(id, dynamic.stacks), "an earlier phase before contrast")
    own = {id(stack) for stack in dynamic.stacks}
    t2 = choose_t2([each for each in found.free if id(each) not in own], found.t2, dynamic.pre, mapping)
    reasons |= t2.reasons
    if t2.stack is not None:
        rule = "mapping" if mapping.T2 else found.rules[id(t2.stack)]
        sequences["T2"], how["T2"] = t2.stack, f"{rule}, {t2.how}"
    missing = (LeftOut(what="series", reason=t2.missing, num_files=0),) if t2.missing else ()
    return Named(
        sequences=sequences,
        how=how,
        left_out=(*missing, *_left_out(stacks, list(sequences.values()), reasons)),
        laterality=dynamic.pre.series.laterality,
    )


@dataclass(frozen=True)
class _Sorted:
    """Volumes by what they may be."""

    free: tuple[Stack, ...]
    """All but copies and what the mapping file ignores."""

    t1: tuple[Stack, ...]
    t2: tuple[Stack, ...]
    unknown: tuple[Stack, ...]
    """Neither T1 nor T2 by any rule, but nothing speaks against either."""

    rules: Mapping[int, str]
    """id of a stack of `t1` or `t2` to the rule that says so."""

    reasons: Mapping[int, str]
    """id of any other stack to the reason why it is neither."""


def _sort(stacks: Sequence[Stack], mapping: SeriesMapping) -> _Sorted:
    kinds: dict[str, list[Stack]] = {"T1": [], "T2": [], "": []}
    free: list[Stack] = []
    rules, reasons = dict[int, str](), dict[int, str]()
    for stack in stacks:
        if matches(stack.series, mapping.ignore):
            reasons[id(stack)] = "ignored by the mapping file"
            continue
        if _is_uncorrected(stack, stacks):
            reasons[id(stack)] = "a copy without distortion correction"
            continue
        free.append(stack)
        reason = unwanted(stack)
        if reason:
            reasons[id(stack)] = reason
            continue
        kind, rule = weighting(stack)
        kinds[kind].append(stack)
        (rules if kind else reasons)[id(stack)] = rule
    return _Sorted(tuple(free), tuple(kinds["T1"]), tuple(kinds["T2"]), tuple(kinds[""]), rules, reasons)


def _is_uncorrected(stack: Stack, stacks: Sequence[Stack]) -> bool:
    """Siemens scanners may store each image twice, before (ND) and after distortion correction (DIS2D)."""
    return "ND" in stack.frames[0].image_type and any(
        any(value.startswith("DIS") for value in other.frames[0].image_type)
        and same_grid(stack, other)
        and seconds_after(stack, other) == 0
        for other in stacks
    )


def _dynamic(found: _Sorted, mapping: SeriesMapping) -> Dynamic:
    by_mapping = mapped_dynamic(found.free, found.t1, mapping)
    if by_mapping is not None:
        return replace(by_mapping, how=f"mapping, {by_mapping.how}")
    if found.t1:
        return find_dynamic(found.t1, mapping.pre_phases)
    several = [stack for stack in found.unknown if stack.num_phases > mapping.pre_phases]
    return find_dynamic(several, mapping.pre_phases)


def _may_be_phases(found: _Sorted, mapping: SeriesMapping) -> list[Stack]:
    """Volumes among which phases of the dynamic series are looked for."""
    patterns = mapping.dynamic + mapping.Pre + mapping.Post
    named = [stack for stack in found.free if matches(stack.series, patterns) and not unwanted(stack)]
    return named if _names_all(mapping) else [*found.t1, *found.unknown, *named]


def _names_all(mapping: SeriesMapping) -> bool:
    """Whether the mapping file names all phases of the dynamic series."""
    return bool(mapping.dynamic or (mapping.Pre and mapping.Post))


def _left_out(
    stacks: Sequence[Stack], taken: Sequence[Stack], reasons: Mapping[int, str]
) -> tuple[LeftOut, ...]:
    """One entry per series, or phase of a series that is taken in part, and reason."""
    used = {id(stack) for stack in taken}
    partly = {stack.series.uid for stack in taken}
    groups: dict[tuple[str, str], list[Stack]] = {}
    for stack in stacks:
        if id(stack) not in used:
            groups.setdefault((stack.series.uid, reasons[id(stack)]), []).append(stack)
    entries: list[LeftOut] = []
    for (series, reason), group in groups.items():
        paths = sorted({frame.path for stack in group for frame in stack.frames})
        what = "phase" if series in partly else "series"
        entries.append(LeftOut(what=what, reason=reason, path=paths[0], num_files=len(paths)))
    return tuple(entries)
