"""How code deep inside a run tells whoever watches in the same process how far it is."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from climb_model.runs import RoundRecord, RunObserver
from configs.schema import Settings


class Silent:
    """The observer of a run that nobody watches; also a base for observers of a few events."""

    def started(self, settings: Settings, sites: Mapping[str, int]) -> None:
        """Say nothing."""

    def preparing(self, site: str, done: int, total: int) -> None:
        """Say nothing."""

    def site_progress(self, site: str, round: int, step: int, steps: int, loss: float) -> None:
        """Say nothing."""

    def round_done(self, record: RoundRecord) -> None:
        """Say nothing."""

    def finished(self, summary: Mapping[str, object]) -> None:
        """Say nothing."""


_watching: ContextVar[RunObserver | None] = ContextVar("watching", default=None)


def observer() -> RunObserver:
    """Who watches this thread of execution; `Silent` if nobody does, as in another process."""
    return _watching.get() or Silent()


@contextmanager
def watched_by(watcher: RunObserver | None) -> Generator[None]:
    """Let `watcher` see what happens inside."""
    token = _watching.set(watcher)
    try:
        yield
    finally:
        _watching.reset(token)
