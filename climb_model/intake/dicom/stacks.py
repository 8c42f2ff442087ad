"""From the frames of one series to its volumes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from climb_model.intake.dicom.geometry import find_geometry, levels_of
from climb_model.intake.dicom.kinds import no_slice, not_acquired
from climb_model.intake.dicom.phases import Phase, moment, split_phases
from climb_model.intake.dicom.pixels import check_sizes, stored_values
from climb_model.intake.study import Frame, Geometry, LeftOut, Series, SeriesError, Stack

_SAME_DIRECTION = 1e-4
"""Largest difference of direction cosines within a volume."""
_SAME_SPACING_MM = 1e-5
_TOLD_SPACING = 0.05
"""Share by which the tag may differ from the positions without a notice."""
_LOCALIZER_ORIENTATIONS = 3
_LOCALIZER_SLICES = 20
"""More slices in one orientation are no localizer."""

Found = tuple[tuple[Stack, ...], tuple[LeftOut, ...]]


def find_stacks(series: Series) -> Found:
    """The volumes of a series as acquired, sorted by kind and time, and what is left out of it and why.

    Derived images, localizers and phase images are left out. A stack's `phase` counts the phases that are
    left out too: where the first one lacks slices, the first stack is phase 2.
    """
    kept, left_out = _sort_out(series, lambda frame: no_slice(frame) or not_acquired(frame))
    if _is_localizer(kept):
        return (), (*left_out, _out(series, kept, "slices of three or more orientations: a localizer"))
    return _stacks(series, kept, left_out)


def all_stacks(series: Series) -> Found:
    """As `find_stacks`, with derived images, localizers and phase images among the volumes."""
    return _stacks(series, *_sort_out(series, no_slice))


def read_voxels(stack: Stack) -> np.ndarray:
    """Voxels (column, row, slice) after rescale slope and intercept.

    In the files' own integer type where no file rescales, else float32.

    Raises:
        SeriesError: pixels that are compressed without a decoder here, truncated or of another size.
    """
    images = stored_values(stack.frames)
    rescaled = any((frame.slope, frame.intercept) != (1.0, 0.0) for frame in stack.frames)
    if rescaled:
        with np.errstate(over="ignore", invalid="ignore"):
            images = [
                (image * frame.slope + frame.intercept).astype(np.float32)
                for image, frame in zip(images, stack.frames, strict=True)
            ]
    volume = np.stack(images)
    if not np.isfinite(volume).all():
        raise SeriesError("rescaled voxels beyond the range of float32")
    return volume.transpose(2, 1, 0)


def _sort_out(series: Series, why_not: Callable[[Frame], str]) -> tuple[list[Frame], list[LeftOut]]:
    kept: list[Frame] = []
    others: dict[str, list[Frame]] = {}
    for frame in series.frames:
        reason = why_not(frame)
        (others.setdefault(reason, []) if reason else kept).append(frame)
    return kept, [_out(series, frames, reason) for reason, frames in others.items()]


def _is_localizer(frames: Sequence[Frame]) -> bool:
    counts = Counter(_clusters([frame.orientation for frame in frames], _SAME_DIRECTION))
    return len(counts) >= _LOCALIZER_ORIENTATIONS and max(counts.values()) <= _LOCALIZER_SLICES


def _stacks(series: Series, frames: Sequence[Frame], left_out: Sequence[LeftOut]) -> Found:
    stacks: list[Stack] = []
    others = list(left_out)
    groups = _groups(frames)
    strays = [group for group in groups if len(group) == 1 < max(map(len, groups))]
    reason = "one slice of another orientation, size or kind than the rest of its series"
    others += [_out(series, group, reason) for group in strays]
    for group in groups:
        if group in strays:
            continue
        try:
            whole, dropped = _without_copies(group)
            phases = split_phases(whole, levels_of(whole))
        except SeriesError as error:
            others.append(_out(series, group, str(error)))
            continue
        for number, phase in enumerate(phases, start=1):
            found = _stack(series, phase, number, len(phases), dropped, len(groups) - len(strays))
            if isinstance(found, Stack):
                stacks.append(found)
            else:
                others.append(found)
    return tuple(stacks), tuple(others)


def _stack(
    series: Series, phase: Phase, number: int, num_phases: int, dropped: int, num_groups: int
) -> Stack | LeftOut:
    if phase.missing:
        reason = (
            f"phase {number} of {num_phases} lacks {phase.missing} of "
            f"{phase.missing + len(phase.frames)} slices"
        )
        return _out(series, phase.frames, reason)
    try:
        check_sizes(phase.frames)
        geometry = find_geometry(phase.frames)
    except SeriesError as error:
        return _out(series, phase.frames, str(error))
    return Stack(
        series=series,
        frames=phase.frames,
        geometry=geometry,
        time_s=phase.time_s,
        time_from=phase.time_from,
        phase=number,
        num_phases=num_phases,
        notices=tuple(_notices(phase.frames, geometry, dropped, num_groups)),
    )


def _notices(frames: Sequence[Frame], geometry: Geometry, dropped: int, num_groups: int) -> Iterator[str]:
    if num_groups > 1:
        yield f"one of {num_groups} groups of its series by orientation, size, spacing, echo or image type"
    if dropped:
        yield f"copies of slices dropped: {dropped}"
    scales = {(frame.slope, frame.intercept) for frame in frames}
    if len(scales) > 1:
        yield f"{len(scales)} different rescale slopes or intercepts, each applied to its slices"
    if len({(frame.signed, frame.bits_allocated) for frame in frames}) > 1:
        yield "stored values of different types (PixelRepresentation, BitsAllocated)"
    if lossy := sum(frame.lossy for frame in frames):
        yield f"{lossy} of {len(frames)} slices were compressed with loss"
    told = frames[0].slice_spacing_mm
    found = geometry.spacing_mm[0]
    if told and abs(abs(told) - found) > _TOLD_SPACING * found:
        yield f"slices lie {found:.3f} mm apart, SpacingBetweenSlices says {abs(told):.3f} mm"


def _groups(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of one orientation, size, spacing, echo, diffusion weighting, image type and stack."""
    groups: dict[tuple[object, ...], list[Frame]] = {}
    orientations = _clusters([frame.orientation for frame in frames], _SAME_DIRECTION)
    spacings = _clusters([frame.spacing for frame in frames], _SAME_SPACING_MM)
    for frame, orientation, spacing in zip(frames, orientations, spacings, strict=True):
        key = (
            -1.0 if frame.echo_ms is None else round(frame.echo_ms, 2),
            -1.0 if frame.b_value is None else round(frame.b_value, 1),
            *(frame.image_type, frame.stack_id, frame.rows, frame.columns, orientation, spacing),
        )
        groups.setdefault(key, []).append(frame)
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0])]


def _clusters(values: Sequence[tuple[float, ...] | None], tolerance: float) -> list[int]:
    """A number for each row, shared by rows that differ by no more than the tolerance."""
    seeds: list[tuple[float, ...]] = []
    number: dict[tuple[float, ...] | None, int] = {}
    for value in sorted(value for value in set(values) if value is not None):
        for known, seed in enumerate(seeds):
            if max(abs(a - b) for a, b in zip(value, seed, strict=True)) <= tolerance:
                number[value] = known
                break
        else:
            number[value] = len(seeds)
            seeds.append(value)
    return [number[value] for value in values]


def _without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], int]:
    """One frame of each position and moment, and how many others with the same voxels were dropped."""
    same: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame, level in zip(frames, levels_of(frames).tolist(), strict=True):
        same[level, *moment(frame)].append(frame)
    _check_copies([copies for copies in same.values() if len(copies) > 1])
    return [copies[0] for copies in same.values()], len(frames) - len(same)


def _check_copies(groups: Sequence[Sequence[Frame]]) -> None:
    if not groups:
        return
    images = iter(stored_values([frame for copies in groups for frame in copies]))
    for copies in groups:
        first, *others = [next(images) for _ in copies]
        scales = {(frame.slope, frame.intercept) for frame in copies}
        if len(scales) > 1 or any(not np.array_equal(first, other) for other in others):
            raise SeriesError(
                "slices at one position and one time with other pixels: which one counts is not told"
            )


def _out(series: Series, frames: Sequence[Frame], reason: str) -> LeftOut:
    paths = {frame.path for frame in frames}
    part = "file" if len(paths) == 1 else "phase"
    what = "series" if len(frames) == len(series.frames) else part
    return LeftOut(what=what, reason=reason, path=min(paths), num_files=len(paths))
