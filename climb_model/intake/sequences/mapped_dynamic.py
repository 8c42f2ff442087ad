"""The dynamic series by a site's mapping file."""

from __future__ import annotations

from collections.abc import Sequence

from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.sequences.dynamic import NAME_IT, Dynamic, after_pre, best, find_dynamic
from climb_model.intake.sequences.grid import same_grid
from climb_model.intake.sequences.patterns import all_matches, first_match
from climb_model.intake.sequences.runs import PRE, find_runs, seconds_after
from climb_model.intake.sequences.series_words import calls
from climb_model.intake.study import SeriesError, Stack


def mapped_dynamic(stacks: Sequence[Stack], t1: Sequence[Stack], mapping: SeriesMapping) -> Dynamic | None:
    """The dynamic series that the mapping file names; None if it has no patterns for one.

    What `dynamic` matches comes first. Where only one of Pre and Post has patterns, the other is found
    among the T1 volumes of the same geometry.

    Args:
        stacks: all that the mapping file does not ignore.
        t1: those that the rules take for T1.
        mapping: of this site.

    Raises:
        SeriesError: a pattern that matches nothing or the wrong thing, or what `find_dynamic` refuses.
    """
    wanted = {"dynamic": mapping.dynamic, "Pre": mapping.Pre, "Post": mapping.Post}
    wanted = {name: patterns for name, patterns in wanted.items() if patterns}
    if not wanted:
        return None
    whole = first_match(stacks, mapping.dynamic)
    if whole:
        return find_dynamic(whole, mapping.pre_phases, named=True)
    pre = first_match(stacks, mapping.Pre)
    post = all_matches(stacks, mapping.Post)
    for name, found in (("Pre", pre), ("Post", post)):
        if name in wanted and not found:
            raise SeriesError(f"no series matches the mapping file's patterns for {' or '.join(wanted)}")
    if not pre and not post:
        raise SeriesError("no series matches the mapping file's patterns for dynamic")
    if {stack.series.uid for stack in pre} & {stack.series.uid for stack in post}:
        raise SeriesError("the mapping file's patterns for Pre and Post match the same series; use dynamic")
    if any(stack.num_phases > 1 for stack in pre):
        raise SeriesError(
            "the mapping file's pattern for Pre matches a series of several phases; use dynamic"
        )
    if not pre:
        return after_pre(_earlier(t1, post), _one_grid(post), "Pre of the same geometry before Post")
    if not post:
        return _before_runs(pre, t1)
    return after_pre(pre, _one_grid(post), "Pre and Post")


def _one_grid(post: Sequence[Stack]) -> list[Stack]:
    """The most stacks that share a grid."""
    groups = [[other for other in post if same_grid(one, other)] for one in post]
    longest = max(groups, key=len)
    rivals = [group for group in groups if len(group) == len(longest) and group[0] is not longest[0]]
    if rivals:
        raise SeriesError(
            f"the mapping file's patterns for Post match {len(rivals[0])} volumes each of several geometries"
        )
    return longest


def _earlier(t1: Sequence[Stack], post: Sequence[Stack]) -> list[Stack]:
    """T1 volumes on the grid of the post-contrast ones that may be the one before."""
    named = {stack.series.uid for stack in post}
    beside = [stack for stack in t1 if stack.series.uid not in named and same_grid(stack, _one_grid(post)[0])]
    native = [stack for stack in beside if calls(stack.series) == PRE]
    if not native and len(beside) > 1:
        raise SeriesError(f"{len(beside)} T1 volumes could be the one before contrast; {NAME_IT}")
    return native or beside


def _before_runs(pre: Sequence[Stack], t1: Sequence[Stack]) -> Dynamic:
    """The longest run of T1 volumes after one of `pre`, on its grid."""
    named = {stack.series.uid for stack in pre}
    runs, faults = find_runs([stack for stack in t1 if stack.series.uid not in named])
    found: list[Dynamic] = []
    for run in runs:
        before = [
            stack for stack in pre if same_grid(stack, run[0]) and (seconds_after(stack, run[0]) or 1) > 0
        ]
        if before:
            found.append(after_pre(before, run, "Pre, and the T1 volumes of the same geometry after it"))
    if not found:
        none = SeriesError("no T1 volume after the one that the mapping file names Pre")
        raise faults[0][1] if faults else none
    return best(found)
