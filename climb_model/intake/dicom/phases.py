"""Which slices of a series belong to one moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from climb_model.intake.study import Frame, SeriesError

_DAY_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The frames of one moment, one at each position, sorted along the normal."""

    frames: tuple[Frame, ...]
    time_s: float | None
    time_from: str
    missing: int
    """Positions that other phases have and this one has not."""


_KEYS: dict[str, Callable[[Frame], float | None]] = {
    "temporal position": lambda frame: frame.temporal_position,
    "acquisition number": lambda frame: frame.acquisition_number,
    "acquisition time": lambda frame: frame.acquired_s,
    "trigger time": lambda frame: frame.trigger_ms,
    "content time": lambda frame: frame.content_s,
}
"""What tells moments apart, the most trusted first."""


def moment(frame: Frame) -> tuple[float | None, ...]:
    """All that a frame tells about its time."""
    return tuple(key(frame) for key in _KEYS.values())


def split_phases(frames: Sequence[Frame], levels: np.ndarray) -> tuple[Phase, ...]:
    """Phases in their order in time.

    Args:
        frames: of one orientation, size and kind, without copies.
        levels: (frame,) number of each frame's position along the normal.

    Raises:
        SeriesError: several frames at one position and nothing that tells them apart, or an order that
            contradicts the times.
    """
    most = int(np.bincount(levels).max())
    names = list(_KEYS) if most > 1 else ["temporal position"]
    split = _complete_split(frames, levels, names) or _incomplete_split(frames, levels, names)
    if split is None and most > 1:
        twice = len(frames) - len(set(levels.tolist()))
        raise SeriesError(
            f"{twice} of {len(frames)} slices lie where another one lies, with other pixels and no time that "
            "tells them apart"
        )
    name, groups = split or ("", [list(range(len(frames)))])
    num_levels = int(levels.max()) + 1
    members = [tuple(frames[place] for place in sorted(group, key=lambda i: levels[i])) for group in groups]
    times, time_from = _times(members, name)
    known = [time for time in times if time is not None]
    if any(later < earlier for earlier, later in pairwise(known)):
        raise SeriesError(f"{len(groups)} phases whose order by {name} contradicts their {time_from}")
    return tuple(
        Phase(frames=group, time_s=time, time_from=time_from, missing=num_levels - len(group))
        for group, time in zip(members, times, strict=True)
    )


_Split = tuple[str, list[list[int]]]


def _complete_split(frames: Sequence[Frame], levels: np.ndarray, names: Sequence[str]) -> _Split | None:
    """By the first key under which every phase has a slice at every position."""
    num_levels = int(levels.max()) + 1
    for name in names:
        values = _values(frames, name)
        if values is None or not _tells_apart(values, levels):
            continue
        by_value = _by_value(values)
        if all(len(group) == num_levels for group in by_value):
            return name, by_value
        if name != "temporal position" and len(set(np.bincount(levels).tolist())) == 1:
            by_rank = _by_rank(values, levels)
            if all(
                values[earlier].max() < values[later].min()
                for earlier, later in pairwise(np.array(group) for group in by_rank)
            ):
                return name, by_rank
    return None


def _incomplete_split(frames: Sequence[Frame], levels: np.ndarray, names: Sequence[str]) -> _Split | None:
    """By the first key with one value a phase, where some phases lack slices."""
    most = int(np.bincount(levels).max())
    for name in names:
        values = _values(frames, name)
        if values is None or not _tells_apart(values, levels):
            continue
        by_value = _by_value(values)
        if len(by_value) == most or (name == "temporal position" and len(by_value) > 1):
            return name, by_value
    return None


def _values(frames: Sequence[Frame], name: str) -> np.ndarray | None:
    """(frame,) float64, times unwrapped at midnight; None where a frame lacks it."""
    values = [_KEYS[name](frame) for frame in frames]
    if any(value is None for value in values):
        return None
    array = np.array(values, np.float64)
    return _unwrapped(array) if name in ("acquisition time", "content time") else array


def _unwrapped(times: np.ndarray) -> np.ndarray:
    """Times of day in seconds, counted on after a midnight in between: cut at the day's longest pause."""
    inside = np.unique(times)
    pauses = np.diff(inside, append=inside[0] + _DAY_S)
    start = inside[(int(np.argmax(pauses)) + 1) % len(inside)]
    counted = np.where(times < start, times + _DAY_S, times)
    return counted - _DAY_S * np.floor(np.median(counted) / _DAY_S)


def _tells_apart(values: np.ndarray, levels: np.ndarray) -> bool:
    return len(set(zip(levels.tolist(), values.tolist(), strict=True))) == len(values)


def _by_value(values: np.ndarray) -> list[list[int]]:
    groups: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(values.tolist()):
        groups[value].append(place)
    return [groups[value] for value in sorted(groups)]


def _by_rank(values: np.ndarray, levels: np.ndarray) -> list[list[int]]:
    """The k-th frame at each position belongs to phase k."""
    order = np.lexsort((values, levels))
    num_phases = len(order) // (int(levels.max()) + 1)
    return [order[phase::num_phases].tolist() for phase in range(num_phases)]


def _times(phases: Sequence[Sequence[Frame]], split_by: str) -> tuple[list[float | None], str]:
    """Median time of each phase in seconds since midnight, and where it comes from."""
    for name in ("acquisition time", "content time"):
        told = [[value for frame in frames if (value := _KEYS[name](frame)) is not None] for frames in phases]
        if not all(told):
            continue
        flat = _unwrapped(np.array([value for values in told for value in values]))
        parts = np.split(flat, np.cumsum([len(values) for values in told])[:-1])
        medians = [float(np.median(part)) for part in parts]
        if len(set(medians)) == len(medians):
            return list(medians), name
    return [None] * len(phases), split_by if split_by != "acquisition number" else ""
