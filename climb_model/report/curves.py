"""The report's curves over the rounds, each for wide and for narrow windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import cast

from climb_model.report.charts import NUM_COLOURS, Frame, Line, legend, line_chart
from climb_model.report.html import Html, join, tag
from climb_model.report.inputs import RunInputs
from climb_model.runs import RoundRecord

MOST_NAMED_SITES = NUM_COLOURS
"""With more sites than this their loss curves are drawn without names, below their median."""

LOSS = "mean training loss (weighted sum of the objectives)"


def auc_curves(inputs: RunInputs) -> Html:
    """Mean AUC, each finding and what the run is held against, over the rounds."""
    rounds = [record.round for record in inputs.history]
    edges = (float(rounds[0]), float(rounds[-1]))
    guides = [("chance", 0.5), *comparison(inputs)]
    lines = [
        Line(name=name, style="guide", points=[(edges[0], value), (edges[1], value)])
        for name, value in guides
    ]
    for number, finding in enumerate(inputs.table):
        points = [(float(record.round), record.auc.get(finding)) for record in inputs.history]
        lines.append(Line(name=finding, style=f"c{number % NUM_COLOURS}", points=points))
    means = [(float(record.round), record.mean_auc) for record in inputs.history]
    lines.append(Line(name="mean", style="bold", points=means))
    values = [y for line in lines for _, y in line.points if y is not None]
    floor = min(0.4, math.floor(min(values) * 10) / 10)
    return _chart(lines, edges, (floor, 1.0), y_label="zero-shot AUC")


def loss_curves(history: Sequence[RoundRecord], sites: Sequence[str]) -> Html:
    """Each site's mean training loss over the rounds; nothing if no round has trained."""
    lines = _loss_lines(history, sites)
    values = [y for line in lines for _, y in line.points if y is not None]
    if not values:
        return Html("")
    rounds = [x for line in lines for x, _ in line.points]
    gap = max(0.08 * (max(values) - min(values)), 0.02)
    edges = (min(values) - gap, max(values) + gap)
    return _chart(lines, (min(rounds), max(rounds)), edges, y_label=LOSS)


def comparison(inputs: RunInputs) -> list[tuple[str, float]]:
    """Name and mean AUC of what the run is held against."""
    held_against = cast(Mapping[str, object], inputs.summary.get("comparison") or {})
    found: list[tuple[str, float]] = []
    ceiling = held_against.get("supervised_ceiling")
    if isinstance(ceiling, (int, float)):
        found.append(("supervised ceiling", float(ceiling)))
    best = held_against.get("best_site")
    if isinstance(best, dict):
        site = cast(Mapping[str, object], best)
        if isinstance(site.get("mean_auc"), (int, float)):
            found.append((f"best single site ({site.get('name')})", float(cast(float, site["mean_auc"]))))
    return found


def _loss_lines(history: Sequence[RoundRecord], sites: Sequence[str]) -> list[Line]:
    trained = [record for record in history if record.sites]
    few = len(sites) <= MOST_NAMED_SITES
    lines: list[Line] = []
    for number, name in enumerate(sites):
        points = [(float(r.round), r.sites[name].loss if name in r.sites else None) for r in trained]
        lines.append(Line(name=name, style=f"c{number}" if few else "faint", points=points))
    if not few:
        middle = [(float(r.round), median(site.loss for site in r.sites.values())) for r in trained]
        lines.append(Line(name=f"median of {len(sites)} sites", style="bold", points=middle))
    return lines


def _chart(
    lines: list[Line], x_range: tuple[float, float], y_range: tuple[float, float], *, y_label: str
) -> Html:
    """Drawn twice, named at the lines' ends for a wide window and with a legend for a narrow one.

    Args:
        y_label: what is in brackets has no room on the narrow one.
    """
    if x_range[0] == x_range[1]:
        x_range = (x_range[0] - 0.5, x_range[1] + 0.5)
    wide = Frame(width=832, height=400, right=212, x_range=x_range, y_range=y_range)
    narrow = Frame(width=368, height=290, right=10, left=44, x_range=x_range, y_range=y_range)
    drawn = [
        line_chart(lines, frame, x_label="round", y_label=label, named=frame is wide)
        for frame, label in ((wide, y_label), (narrow, y_label.partition(" (")[0]))
    ]
    return join(
        [
            tag("div", {"class": "wide"}, drawn[0]),
            tag("div", {"class": "narrow"}, drawn[1], legend(lines)),
        ]
    )
