"""Inline drawings of the report: curves, ROC curves and interval bars, in SVG without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from climb_model.report.html import Html, tag

NUM_COLOURS = 9
"""Colours of the style sheet, `c0` to `c8`; further lines begin again."""

LABEL_STEP = 15.0
"""Smallest distance of two labels beside a chart, in pixels."""

LONGEST_LABEL = 27
MOST_MARKED_ROUNDS = 30
"""With more rounds than this the points of a bold line are not marked."""

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve. A point without a value is a gap."""

    name: str
    points: Points
    style: str
    """Class of the style sheet: `c0` to `c8`, `bold`, `guide` (dashed) or `faint` (unnamed)."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Size of a chart in pixels, its margins, and the values at its edges."""

    width: float
    height: float
    right: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 48.0
    top: float = 12.0
    bottom: float = 42.0

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        return (
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)
        )


def line_chart(lines: Sequence[Line], frame: Frame, *, x_label: str, y_label: str, named: bool) -> Html:
    """Curves over whole numbers.

    Args:
        lines: drawn in this order, so the important one comes last.
        named: write each line's name beside its end; without, the page needs a `legend`.
    """
    parts = [_axes(frame, x_label=x_label, y_label=y_label)]
    parts += [_curve(line, frame) for line in lines]
    if named:
        parts += _names(lines, frame)
    size = {"viewBox": f"0 0 {frame.width:g} {frame.height:g}", "role": "img"}
    return tag("svg", {**size, "aria-label": f"{y_label} over {x_label}", "class": "chart"}, *parts)


def legend(lines: Sequence[Line]) -> Html:
    """Names of a chart's lines, for where there is no room beside it."""
    entries: list[Html] = []
    rank = {"bold": 0, "guide": 2, "faint": 3}
    for line in sorted(lines, key=lambda line: rank.get(line.style, 1)):
        if line.style == "faint":
            break
        stroke = tag("line", {"x1": 1, "x2": 23, "y1": 5, "y2": 5, "class": "line"})
        swatch = tag("svg", {"width": 24, "height": 10, "class": line.style, "aria-hidden": "true"}, stroke)
        entries.append(tag("li", None, swatch, line.name))
    return tag("ul", {"class": "legend"}, *entries)


def roc_chart(false_positive: Sequence[float], true_positive: Sequence[float], *, name: str) -> Html:
    """One ROC curve in a square, with the diagonal of chance."""
    frame = Frame(
        width=210, height=196, left=44, right=10, top=8, bottom=34, x_range=(0.0, 1.0), y_range=(0.0, 1.0)
    )
    corners = " ".join(
        f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(false_positive, true_positive, strict=True)
    )
    floor = f"{frame.x(1):.1f},{frame.y(0):.1f} {frame.x(0):.1f},{frame.y(0):.1f}"
    parts = [
        _axes(frame, x_label="1 − specificity", y_label="sensitivity", ticks=((0, 0.5, 1), (0, 0.5, 1))),
        tag("polygon", {"points": f"{corners} {floor}", "class": "area"}),
        _straight(frame, (0, 0), (1, 1), "line guide"),
        tag("polyline", {"points": corners, "class": "line bold"}),
    ]
    label = f"ROC curve of {name}"
    return tag(
        "svg", {"viewBox": "0 0 210 196", "role": "img", "aria-label": label, "class": "chart"}, *parts
    )


def interval_bar(low: float | None, value: float | None, high: float | None, *, floor: float) -> Html:
    """A point and its interval on an axis from `floor` to 1; the thin line is chance.

    Positions are shares of the width, so the bar fits any column.
    """

    def share(number: float) -> str:
        return f"{100 * (number - floor) / (1 - floor):.2f}%"

    parts = [tag("line", {"x1": share(0.5), "x2": share(0.5), "y1": 0, "y2": 26, "class": "line guide"})]
    if low is not None and high is not None:
        parts.append(tag("line", {"x1": share(low), "x2": share(high), "y1": 13, "y2": 13, "class": "range"}))
    if value is not None:
        parts.append(tag("circle", {"cx": share(value), "cy": 13, "r": 4.5, "class": "dot"}))
    return tag("svg", {"class": "interval", "width": "100%", "height": 26, "aria-hidden": "true"}, *parts)


def interval_axis(*, floor: float) -> Html:
    """The numbers above a column of `interval_bar`."""
    parts = [
        tag("text", {"x": f"{100 * (tick - floor) / (1 - floor):.2f}%", "y": 11, "text-anchor": anchor}, text)
        for tick, anchor, text in (
            (floor, "start", f"{floor:.1f}"),
            (0.5, "middle", "0.5"),
            (1.0, "end", "1.0"),
        )
        if tick == 0.5 or abs(tick - 0.5) > 0.15
    ]
    return tag("svg", {"class": "interval", "width": "100%", "height": 14, "aria-hidden": "true"}, *parts)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most `most` of them: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(i * step, 10) for i in range(first, last + 1)]
    raise AssertionError(f"no step for {low} to {high}")


def spread(wanted: Sequence[float], *, step: float, low: float, high: float) -> list[float]:
    """Places as near to the wanted ones as `step` between neighbours allows, in the wanted order.

    What does not fit between low and high is squeezed evenly.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    step = min(step, (high - low) / max(len(wanted) - 1, 1))
    places = [min(max(wanted[i], low), high) for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + step)
    ceiling = high
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - step
    result = [0.0] * len(wanted)
    for place, i in zip(places, order, strict=True):
        result[i] = place
    return result


def _axes(
    frame: Frame,
    *,
    x_label: str,
    y_label: str,
    ticks: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Html:
    x_ticks, y_ticks = ticks or _default_ticks(frame)
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    parts: list[Html] = []
    for value in y_ticks:
        place = frame.y(value)
        parts.append(tag("line", {"x1": frame.left, "x2": right, "y1": place, "y2": place, "class": "grid"}))
        parts.append(
            tag("text", {"x": frame.left - 6, "y": place + 4, "text-anchor": "end"}, _short(value, y_ticks))
        )
    for value in x_ticks:
        place = frame.x(value)
        parts.append(tag("line", {"x1": place, "x2": place, "y1": bottom, "y2": bottom + 4, "class": "tick"}))
        parts.append(
            tag("text", {"x": place, "y": bottom + 16, "text-anchor": "middle"}, _short(value, x_ticks))
        )
    middle_x, middle_y = (frame.left + right) / 2, (frame.top + bottom) / 2
    parts.append(tag("line", {"x1": frame.left, "x2": right, "y1": bottom, "y2": bottom, "class": "tick"}))
    title = {"text-anchor": "middle", "class": "axis"}
    parts.append(tag("text", {"x": middle_x, "y": frame.height - 4, **title}, x_label))
    turned = f"translate(11 {middle_y:.1f}) rotate(-90)"
    parts.append(tag("text", {"transform": turned, **title}, y_label))
    return tag("g", {"class": "axes"}, *parts)


def _default_ticks(frame: Frame) -> tuple[list[float], list[float]]:
    whole = [value for value in ticks(*frame.x_range, most=9 if frame.width > 500 else 6) if value % 1 == 0]
    return whole, ticks(*frame.y_range, most=8)


def _curve(line: Line, frame: Frame) -> Html:
    parts = [tag("title", None, line.name)]
    run: list[str] = []
    for x, y in [*line.points, (0.0, None)]:
        if y is not None:
            run.append(f"{frame.x(x):.1f},{frame.y(y):.1f}")
        elif len(run) == 1:
            cx, cy = run.pop().split(",")
            parts.append(tag("circle", {"cx": cx, "cy": cy, "r": 2.5, "class": "lone"}))
        elif run:
            parts.append(tag("polyline", {"points": " ".join(run), "class": "line"}))
            run = []
    if line.style == "bold" and len(line.points) <= MOST_MARKED_ROUNDS:
        for x, y in line.points:
            if y is not None:
                hover = tag("title", None, f"{line.name}, {x:g}: {y:.3f}")
                parts.append(tag("circle", {"cx": frame.x(x), "cy": frame.y(y), "r": 3.2}, hover))
    return tag("g", {"class": line.style}, *parts)


def _names(lines: Sequence[Line], frame: Frame) -> list[Html]:
    """Each line's name beside its last value, moved apart where they would overlap."""
    ends = [(line, x, y) for line in lines if line.style != "faint" for x, y in _last(line)]
    wanted = [frame.y(y) for _, _, y in ends]
    places = spread(wanted, step=LABEL_STEP, low=frame.top, high=frame.height - frame.bottom)
    parts: list[Html] = []
    edge = frame.width - frame.right
    for (line, x, _), start, place in zip(ends, wanted, places, strict=True):
        name = line.name if len(line.name) <= LONGEST_LABEL else f"{line.name[: LONGEST_LABEL - 1]}…"
        corners = f"{frame.x(x) + 4:.1f},{start:.1f} {edge + 5:.1f},{start:.1f} {edge + 17:.1f},{place:.1f}"
        leader = tag("polyline", {"points": corners, "class": "leader"})
        text = tag("text", {"x": edge + 21, "y": place + 4}, tag("title", None, line.name), name)
        parts.append(tag("g", {"class": line.style}, leader, text))
    return parts


def _last(line: Line) -> list[tuple[float, float]]:
    known = [(x, y) for x, y in line.points if y is not None]
    return known[-1:]


def _straight(frame: Frame, start: tuple[float, float], end: tuple[float, float], style: str) -> Html:
    place = {"x1": frame.x(start[0]), "y1": frame.y(start[1]), "x2": frame.x(end[0]), "y2": frame.y(end[1])}
    return tag("line", {**place, "class": style})


def _short(value: float, neighbours: Sequence[float]) -> str:
    """With as many decimals as the ticks need to differ."""
    decimals = next(
        (d for d in range(5) if all(abs(round(v, d) - v) < 1e-9 for v in neighbours)),
        5,
    )
    return f"{value:.{decimals}f}"
