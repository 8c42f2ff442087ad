"""Messages to sites and their replies: as they come, asked again if the network lost them, never waited for
longer than agreed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import httpx
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException
from flwr.superlink.grid import HttpGrid

from climb_model.clock import REPLY_SPARE_S
from configs.errors import UserError

T = TypeVar("T")

POLL_S = 3.0
"""Seconds between two looks for a reply."""

MOST_ASKED = 5
"""Times that a site is asked in one round, counting the first."""

LINK_DOWN_S = 600.0
"""Seconds for which a failing SuperLink is asked again before the study ends."""

LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
"""Flower's own errors in place of a reply: the site is gone, or what it sent did not arrive as a whole."""


class LinkDown(UserError):
    """A SuperLink that does not answer; the study can go on once it does."""


@dataclass
class Answer:
    """What became of a message to one node."""

    node: int
    reply: Message | None
    """None: there is none."""

    wall_s: float | None = None
    """From sending to the whole reply; None if nobody measured it."""

    asked: int = 1
    """Times that the node was asked."""

    lost: bool = False
    """Without a reply: the connection to the node was lost."""

    unreadable: str = ""
    """Without a reply: what came could not be read, with an error of this class."""

    @property
    def fault(self) -> str | None:
        """Why there is no reply, to be read after the node's name; None: it is too late, or is there."""
        if self.unreadable:
            return f"sent what cannot be read ({self.unreadable})"
        return "lost its connection" if self.lost else None


def is_remote(grid: Grid) -> bool:
    """Whether sites are reached through a SuperLink, rather than simulated."""
    return isinstance(grid, HttpGrid)


def ask(
    grid: Grid, messages: Sequence[Message], *, seconds: float | Callable[[], float] | None, enough: int
) -> Iterator[Answer]:
    """Send messages and give one answer a node, in the order of arrival; those without a reply come last.

    Guarantees, where the sites are remote:
        - It ends within `seconds`, whatever a site or the SuperLink does.
        - A reply that is still being uploaded, or that cannot be read, holds up and ends no other.
        - A node whose connection is lost is asked again when it is back, while others are awaited or
          fewer than `enough` have answered.
    Simulated sites are asked through the grid's own `send_and_receive`.

    Args:
        seconds: from now; None only for simulated sites. Of remote sites also a function, which is asked
            again before each wait: whoever reads the answers can bring the end nearer.
        enough: answers with which lost nodes are not waited for.

    Raises:
        LinkDown: if the messages could not be sent, or the SuperLink failed for `LINK_DOWN_S` seconds.
    """
    if is_remote(grid):
        assert seconds is not None, "sites behind a network are never waited for without end"
        limit = seconds if callable(seconds) else lambda: seconds
        yield from _Exchange(grid, limit, enough).answers(messages)
        return
    assert not callable(seconds), "simulated sites are waited for by their own grid"
    silent = [message.metadata.dst_node_id for message in messages]
    replies = iter(grid.send_and_receive(messages, timeout=seconds))
    del messages
    for reply in replies:
        node = reply.metadata.src_node_id
        if node in silent:
            silent.remove(node)
            yield Answer(node, reply)
        del reply
    yield from (Answer(node, None) for node in silent)


class Later:
    """Messages whose replies are read when they have come; nothing ever waits for them."""

    def __init__(self, grid: Grid) -> None:
        """Nothing is sent yet."""
        self._grid = grid
        self._sent: dict[int, tuple[str, float]] = {}
        self._arrived: queue.SimpleQueue[tuple[int, str, _Fetched, float]] = queue.SimpleQueue()

    @property
    def awaited(self) -> Collection[int]:
        """The nodes whose answers have not been given."""
        return self._sent.keys()

    def send(self, messages: Sequence[Message]) -> None:
        """Send one message a node, to nodes that are not awaited.

        Raises:
            LinkDown: as `push`.
        """
        since = time.monotonic()
        for message, name in zip(messages, push(self._grid, messages), strict=True):
            node = message.metadata.dst_node_id
            self._sent[node] = (name, since)
            if is_remote(self._grid):
                threading.Thread(target=self._fetch, args=(node, name), daemon=True).start()

    def answers(self) -> list[Answer]:
        """What has come since the last call. A node whose connection was lost, or was not to be had while the
        SuperLink was down, is not awaited any more; it has no answer."""
        if not is_remote(self._grid):
            for node, (name, _) in self._sent.items():
                for reply in self._grid.pull_messages([name]):
                    self._arrived.put((node, name, reply, time.monotonic()))
        found: list[Answer] = []
        while not self._arrived.empty():
            node, name, reply, when = self._arrived.get()
            if isinstance(reply, RunNotRunningException):
                raise reply
            sent_name, since = self._sent.pop(node)
            assert sent_name == name, "a node that is awaited is not asked again"
            if isinstance(reply, Exception):
                if not isinstance(reply, LinkDown):
                    found.append(Answer(node, None, unreadable=type(reply).__name__))
            elif not is_lost(reply):
                found.append(Answer(node, reply, when - since))
        return found

    def _fetch(self, node: int, name: str) -> None:
        reply = _fetched(self._grid, name, threading.Event())
        if reply is not None:
            self._arrived.put((node, name, reply, time.monotonic()))


def push(grid: Grid, messages: Sequence[Message], until: float | None = None) -> list[str]:
    """Hand messages to the grid; gives the identifier of each, under which its reply is pulled.

    One that Flower did not take, because its node was just removed, has one as well: pulling it gives
    Flower's error.

    Args:
        until: as `connected`.

    Raises:
        LinkDown: as `connected`.
    """
    pushed = _patiently(grid, lambda: list(grid.push_messages(messages)), until)
    taken = pushed if len(pushed) == len(messages) else [""] * len(messages)
    return [name or message.metadata.message_id for name, message in zip(taken, messages, strict=True)]


def connected(grid: Grid, until: float | None = None) -> set[int]:
    """The nodes that are there now; a failing SuperLink is asked again for `LINK_DOWN_S`.

    Args:
        until: `time.monotonic()` after which it is not asked again, whatever is left of that time.

    Raises:
        LinkDown: if it fails for as long, or does not answer.
    """
    return set(_patiently(grid, lambda: list(grid.get_node_ids()), until))


def is_lost(reply: Message) -> bool:
    """Whether this is Flower's error for a reply that did not arrive, not a site's own."""
    return reply.has_error() and reply.error.code in LOST


def _patiently(grid: Grid, call: Callable[[], list[T]], until: float | None) -> list[T]:
    """What a call gives, made in a thread that is left behind when its time is over: with the SuperLink down
    Flower itself tries again without end."""
    if not is_remote(grid):
        return call()
    end = time.monotonic() + LINK_DOWN_S
    end = end if until is None else min(end, until)
    given: queue.SimpleQueue[list[T] | BaseException] = queue.SimpleQueue()

    why = ""

    def work() -> None:
        nonlocal why
        while time.monotonic() < end:
            try:
                return given.put(call())
            except httpx.HTTPError as error:
                why = f" ({type(error).__name__})"
            except BaseException as error:  # the caller's, as without a thread
                return given.put(error)
            time.sleep(POLL_S)

    threading.Thread(target=work, daemon=True).start()
    try:
        result = given.get(timeout=max(end - time.monotonic(), 0.0))
    except queue.Empty:
        raise LinkDown(f"the SuperLink does not answer{why}") from None
    if isinstance(result, BaseException):
        raise result
    return result


_Fetched = Message | Exception | RunNotRunningException
"""A reply; or `LinkDown`; or that the run is over; any other error is that of whoever sent the reply."""


def _fetched(grid: Grid, name: str, unwanted: threading.Event) -> _Fetched | None:
    """Look for one reply until it is there; None: nobody wants it any more.

    Flower reads a reply as a whole as soon as it is there: its records' heads, types and bodies are whatever
    the sender's link pushed, and raise errors of many classes.
    """
    down_since: float | None = None
    while not unwanted.is_set():
        try:
            for reply in grid.pull_messages([name]):
                if reply.metadata.reply_to_message_id == name:
                    _check_content(reply)
                    return reply
            down_since = None
        except httpx.HTTPError as error:
            now = time.monotonic()
            down_since = now if down_since is None else down_since
            if now - down_since >= LINK_DOWN_S:
                return error if _is_up(grid) else LinkDown(f"the SuperLink fails ({type(error).__name__})")
        except (Exception, RunNotRunningException) as error:
            return error
        unwanted.wait(POLL_S)
    return None


def _check_content(reply: Message) -> None:
    """Check what Flower itself does not: that the content is one, not any other of its objects.

    Raises:
        TypeError: if it is none.
    """
    if not reply.has_error() and not isinstance(cast(object, reply.content), RecordDict):
        raise TypeError("the content is no dictionary of records")


def _is_up(grid: Grid) -> bool:
    """Whether a SuperLink that fails over one reply answers otherwise: then the reply is what is wrong."""
    try:
        list(grid.get_node_ids())
    except (httpx.HTTPError, RunNotRunningException):
        return False
    return True


@dataclass
class _Parcel:
    """A message on its way."""

    message: Message
    since: float = 0.0
    asked: int = 0
    unwanted: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for its reply any more."""


class _Exchange:
    """One round of messages through a SuperLink, with a thread for each reply.

    `HttpGrid` fetches a reply as soon as its upload begins and then waits for the rest of it; so each is
    fetched by itself. A thread that hangs there at the end is left behind; it keeps no process alive.
    """

    def __init__(self, grid: Grid, seconds: Callable[[], float], enough: int) -> None:
        self._grid = grid
        self._seconds = seconds
        self._enough = enough
        self._start = time.monotonic()
        self._waiting: dict[int, _Parcel] = {}
        self._lost: dict[int, _Parcel] = {}
        self._arrived: queue.SimpleQueue[tuple[int, _Parcel, _Fetched, float]] = queue.SimpleQueue()

    def answers(self, messages: Sequence[Message]) -> Iterator[Answer]:
        """As `ask`."""
        num_answers = 0
        try:
            self._send({message.metadata.dst_node_id: _Parcel(message) for message in messages})
            del messages
            while self._waiting or (self._may_return() and num_answers < self._enough):
                left = self._left()
                arrived = self._next(max(left, 0.0))
                if arrived is not None:
                    num_answers += 1
                    yield arrived
                elif left <= 0:
                    break
                del arrived
                self._ask_again()
            yield from (Answer(node, None, asked=parcel.asked) for node, parcel in self._waiting.items())
            yield from (Answer(node, None, None, parcel.asked, True) for node, parcel in self._lost.items())
        finally:
            for parcel in self._waiting.values():
                parcel.unwanted.set()

    def _end(self) -> float:
        return self._start + self._seconds()

    def _left(self) -> float:
        return self._end() - time.monotonic()

    def _send(self, parcels: dict[int, _Parcel]) -> None:
        left = self._left()
        for parcel in parcels.values():
            parcel.message.metadata.ttl = (
                max(left, 0.0) + REPLY_SPARE_S + time.time() - parcel.message.metadata.created_at
            )
        names = push(self._grid, [parcel.message for parcel in parcels.values()], self._end())
        for name, (node, parcel) in zip(names, parcels.items(), strict=True):
            parcel.since, parcel.asked = time.monotonic(), parcel.asked + 1
            self._waiting[node] = parcel
            threading.Thread(target=self._fetch, args=(node, parcel, name), daemon=True).start()

    def _fetch(self, node: int, parcel: _Parcel, name: str) -> None:
        reply = _fetched(self._grid, name, parcel.unwanted)
        if reply is not None:
            self._arrived.put((node, parcel, reply, time.monotonic()))

    def _next(self, seconds: float) -> Answer | None:
        """The next reply that arrives within a poll's time; a lost one is put aside."""
        try:
            node, parcel, reply, when = self._arrived.get(timeout=min(seconds, POLL_S))
        except queue.Empty:
            return None
        if isinstance(reply, (LinkDown, RunNotRunningException)):
            raise reply
        del self._waiting[node]
        if isinstance(reply, Exception):
            return Answer(node, None, asked=parcel.asked, unreadable=type(reply).__name__)
        if is_lost(reply):
            self._lost[node] = parcel
            return None
        return Answer(node, reply, when - parcel.since, parcel.asked)

    def _may_return(self) -> dict[int, _Parcel]:
        return {node: parcel for node, parcel in self._lost.items() if parcel.asked < MOST_ASKED}

    def _ask_again(self) -> None:
        """Send anew to nodes that were lost and are connected, until the end comes."""
        if self._left() <= 0 or not (again := self._may_return()):
            return
        try:
            there = connected(self._grid, self._end())
            for node, parcel in again.items():
                if node in there and self._left() > 0:
                    before = parcel.message
                    message = Message(
                        before.content, node, before.metadata.message_type, group_id=before.metadata.group_id
                    )
                    self._send({node: _Parcel(message, asked=parcel.asked)})
                    del self._lost[node]
        except LinkDown:
            if self._left() > POLL_S:
                raise
