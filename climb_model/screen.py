"""A run as its watcher sees it: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import atexit
import io
from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from climb_model.model.climb import build_model
from climb_model.results import NOT_A_DEVICE, auc_text, printable, result_lines
from climb_model.runs import RoundRecord
from climb_model.sharing import shared_spec
from configs.schema import Settings

MEGABYTE = 1e6
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_RANGE = (0.4, 1.0)
"""Mean AUC at the lowest and the highest bar."""

SPARK_ROUNDS = 8
MOST_NAMED_LOSSES = 6
"""With more sites than this a row gives the range of their losses, not each."""

TRAVELS = "up / down MB, all sites"
COLUMNS = (
    f"{'round':>7}  {'step':>7}  {'mean AUC':>8}  {'change':>7}  {'':<{SPARK_ROUNDS}}  {TRAVELS}  {'s':>7}  "
)


class LiveTable:
    """A `RunObserver` on standard output; a context manager, so that the cursor always comes back.

    It shows names of sites, counts, losses and AUCs; nothing of an exam.
    """

    def __init__(
        self,
        *,
        study: str = "",
        alone: bool = False,
        console: Console | None = None,
        live: bool | None = None,
    ) -> None:
        """
        Args:
            study: name for the header.
            alone: one site trains without a federation: nothing travels.
            live: progress bars and colours. None: if the output is a terminal that can do it.
        """
        self._console = console or Console(highlight=False)
        can_move = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._live = can_move if live is None else live
        self._study = printable(study)
        self._alone = alone
        self._num_rounds = 0
        self._num_sites = 0
        self._means: list[float | None] = []
        self._bars: Progress | None = None
        self._bar: tuple[str, TaskID] | None = None
        self._trained: list[str] = []

    def __enter__(self) -> LiveTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the progress bar away; what was printed stays."""
        if self._bars is not None:
            self._bars.stop()
            atexit.unregister(self.close)
        self._bars, self._bar = None, None

    def started(self, settings: Settings, sites: Mapping[str, int]) -> None:
        """Print the header."""
        self._num_rounds = settings.federation.num_rounds
        self._num_sites = len(sites)
        for line in header_lines(settings, sites, study=self._study, alone=self._alone):
            self._say(line)
        self._say("")
        if self._live:
            columns = COLUMNS.replace(TRAVELS, " " * len(TRAVELS)) if self._alone else COLUMNS
            self._say(f"{columns}loss by site", style="bold")

    def preparing(self, site: str, done: int, total: int) -> None:
        """Show how many exams of a site have slice tokens."""
        if self._live:
            self._advance(f"site {printable(site)}: slice tokens", done, total, "exams")
        if done == total:
            self._say(f"site {printable(site)}: slice tokens of {total} exams are ready", style="dim")

    def site_progress(self, site: str, round: int, step: int, steps: int, loss: float) -> None:
        """Show how far a site is in its round; nothing when the output is no terminal."""
        if not self._live:
            return
        if site not in self._trained:
            self._trained.append(site)
        place = f"{len(self._trained)} of {self._num_sites}" if self._num_sites else ""
        self._advance(
            f"round {round}: site {printable(site)} ({place})", step, steps, f"steps, loss {loss:.3f}"
        )

    def round_done(self, record: RoundRecord) -> None:
        """Print the round's row, and why replies were rejected."""
        self._hide_bar()
        self._trained.clear()
        previous = next((mean for mean in reversed(self._means) if mean is not None), None)
        self._means.append(record.mean_auc)
        if self._live:
            self._say(self._row(record, previous))
        else:
            self._say(plain_line(record, previous, self._num_rounds))
        for entry in record.rejected:
            named = entry["reason"].startswith(f"site '{entry['site']}'")
            who = "" if named else f"site {printable(entry['site'])}: "
            reason = f"rejected: {who}{printable(entry['reason'])}"
            self._say(f"{'':>7}  {reason}" if self._live else f"round {record.round}: {reason}", style="red")

    def finished(self, summary: Mapping[str, object]) -> None:
        """Print the table of findings."""
        self.close()
        self._say("")
        for line in result_lines(summary):
            self._say(line)

    def _row(self, record: RoundRecord, previous: float | None) -> str:
        of = f"{record.round}/{self._num_rounds}" if self._num_rounds else str(record.round)
        up, down = _megabytes(record)
        change = _change(record.mean_auc, previous)
        travelled = "" if self._alone else f"{up:.1f} / {down:.1f}"
        sparks = sparkline(self._means[-SPARK_ROUNDS:]) if self._can_write(SPARKS) else ""
        return (
            f"{of:>7}  {record.global_step:>7}  {auc_text(record.mean_auc):>8}  {change:>7}  "
            f"{sparks:<{SPARK_ROUNDS}}  {travelled:>{len(TRAVELS)}}  {record.seconds:>7.1f}  {losses(record)}"
        ).rstrip()

    def _say(self, line: str, style: str = "") -> None:
        if self._live:
            target = self._bars.console if self._bars is not None else self._console
            target.print(Text(line, style=style), soft_wrap=True)
            return
        if not self._can_write(line):
            line = line.encode(self._console.encoding, "replace").decode(self._console.encoding)
        try:
            self._console.file.write(f"{line}\n")
            self._console.file.flush()
        except BrokenPipeError:  # the reader has gone, as `head` does: training goes on unwatched
            self._console.file = io.StringIO()

    def _can_write(self, text: str) -> bool:
        try:
            text.encode(self._console.encoding)
        except UnicodeEncodeError:
            return False
        return True

    def _advance(self, what: str, done: int, total: int, unit: str) -> None:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}", markup=False),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
            atexit.register(self.close)  # for a program that ends without `close`
        if self._bar is None or self._bar[0] != what:
            self._hide_bar()
            self._bar = (what, self._bars.add_task(what, total=total, unit=unit))
        self._bars.update(self._bar[1], completed=done, total=total, unit=unit, refresh=done >= total)

    def _hide_bar(self) -> None:
        if self._bars is not None and self._bar is not None:
            self._bars.remove_task(self._bar[1])
        self._bar = None


def header_lines(
    settings: Settings, sites: Mapping[str, int], *, study: str = "", alone: bool = False
) -> list[str]:
    """Who takes part and what travels, before the first round.

    Args:
        sites: name to training exams.
        alone: one site trains without a federation.
    """
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        spec = shared_spec(build_model(settings))
    numbers = sum(torch.Size(shape).numel() for shape in spec.values())
    named = ", ".join(f"{printable(name)} ({exams})" for name, exams in sites.items())
    of_study = f"study {study}, " if study else ""
    travels = f"{numbers:,} weights in {len(spec)} tensors"
    if alone:
        travels = f"nothing; {travels} are the ones that a federation would share"
    else:
        travels += (
            f", {4 * numbers / MEGABYTE:.1f} MB for each site, round and direction; "
            "images and reports are not sent"
        )
    one_or_more = "1 site" if len(sites) == 1 else f"{len(sites)} sites"
    return [
        f"CLIMB: {of_study}preset {settings.preset}, seed {settings.seed}, "
        f"{settings.federation.num_rounds} rounds. {NOT_A_DEVICE}",
        f"{one_or_more} with {sum(sites.values())} training exams: {named}",
        f"what travels: {travels}",
    ]


def plain_line(record: RoundRecord, previous: float | None, num_rounds: int) -> str:
    """A round as one line without control codes."""
    of = f" of {num_rounds}" if num_rounds else ""
    parts = [f"step {record.global_step}", f"mean AUC {auc_text(record.mean_auc)}"]
    change = _change(record.mean_auc, previous)
    if change:
        parts[-1] += f" ({change})"
    if record.sites:
        up, down = _megabytes(record)
        parts.append(f"loss {losses(record)}")
        if up or down:
            parts.append(f"{up:.1f} MB up, {down:.1f} MB down over all sites")
    return f"round {record.round}{of}: {', '.join(parts)}, {record.seconds:.1f} s"


def losses(record: RoundRecord) -> str:
    """Each site's mean training loss, or their range where the sites are many."""
    values = {printable(name): site.loss for name, site in record.sites.items()}
    if len(values) <= MOST_NAMED_LOSSES:
        return "  ".join(f"{name} {loss:.3f}" for name, loss in values.items())
    return f"{min(values.values()):.3f} to {max(values.values()):.3f} at {len(values)} sites"


def sparkline(means: Sequence[float | None]) -> str:
    """One bar for each round; a gap where the mean AUC is undefined."""
    low, high = SPARK_RANGE
    bars: list[str] = []
    for mean in means:
        if mean is None:
            bars.append(" ")
            continue
        place = (mean - low) / (high - low) * (len(SPARKS) - 1)
        bars.append(SPARKS[round(min(max(place, 0), len(SPARKS) - 1))])
    return "".join(bars)


def _change(mean: float | None, previous: float | None) -> str:
    return "" if mean is None or previous is None else f"{mean - previous:+.3f}"


def _megabytes(record: RoundRecord) -> tuple[float, float]:
    sites = record.sites.values()
    return sum(s.bytes_up for s in sites) / MEGABYTE, sum(s.bytes_down for s in sites) / MEGABYTE
