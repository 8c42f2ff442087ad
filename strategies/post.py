"""Messages to sites and their replies: as they come, asked again if the network lost them, never waited for
longer than agreed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid

T = TypeVar("T")

POLL_S = 3.0
"""Seconds between two looks for a reply."""

TTL_SPARE_S = 30.0
"""A message lives so much longer than its deadline, so that a reply of the last second can be fetched."""

MOST_ASKED = 5
"""Times that a site is asked in one round, counting the first."""

LINK_DOWN_S = 600.0
"""Seconds for which a failing SuperLink is asked again before the study ends."""

LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
"""Flower's own errors in place of a reply: the site is gone, or what it sent did not arrive as a whole."""


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
    """Without a reply: the connection to the node was lost, else it is too late."""


def is_remote(grid: Grid) -> bool:
    """Whether sites are reached through a SuperLink, rather than simulated."""
    return isinstance(grid, HttpGrid)


def ask(grid: Grid, messages: Sequence[Message], *, seconds: float | None, enough: int) -> Iterator[Answer]:
    """Send messages and give one answer a node, in the order of arrival; those without a reply come last.

    Guarantees, where the sites are remote:
        - It ends within `seconds`, whatever a site or the SuperLink does.
        - A reply that is still being uploaded holds up no other.
        - A node whose connection is lost is asked again when it is back, while others are awaited or
          fewer than `enough` have answered.
    Simulated sites are asked through the grid's own `send_and_receive`.

    Args:
        seconds: from now; None only for simulated sites.
        enough: answers with which lost nodes are not waited for.
    """
    if is_remote(grid):
        assert seconds is not None, "sites behind a network are never waited for without end"
        yield from _Exchange(grid, seconds, enough).answers(messages)
        return
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


def push(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """Hand messages to the grid; gives the identifier of each, under which its reply is pulled.

    One that Flower did not take, because its node was just removed, has one as well: pulling it gives
    Flower's error. A failing SuperLink is asked again for `LINK_DOWN_S`.
    """
    pushed = _patiently(lambda: list(grid.push_messages(messages)))
    taken = pushed if len(pushed) == len(messages) else [""] * len(messages)
    return [name or message.metadata.message_id for name, message in zip(taken, messages, strict=True)]


def connected(grid: Grid) -> set[int]:
    """The nodes that are there now; a failing SuperLink is asked again for `LINK_DOWN_S`."""
    return set(_patiently(lambda: list(grid.get_node_ids())))


def is_lost(reply: Message) -> bool:
    """Whether this is Flower's error for a reply that did not arrive, not a site's own."""
    return reply.has_error() and reply.error.code in LOST


def _patiently(call: Callable[[], list[T]]) -> list[T]:
    end = time.monotonic() + LINK_DOWN_S
    while True:
        try:
            return call()
        except httpx.HTTPError:
            if time.monotonic() >= end:
                raise
            time.sleep(POLL_S)


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

    def __init__(self, grid: Grid, seconds: float, enough: int) -> None:
        self._grid = grid
        self._seconds = seconds
        self._enough = enough
        self._end = time.monotonic() + seconds
        self._waiting: dict[int, _Parcel] = {}
        self._lost: dict[int, _Parcel] = {}
        self._arrived: queue.SimpleQueue[tuple[int, _Parcel, Message | Exception, float]] = (
            queue.SimpleQueue()
        )

    def answers(self, messages: Sequence[Message]) -> Iterator[Answer]:
        """As `ask`."""
        num_answers = 0
        try:
            self._send({message.metadata.dst_node_id: _Parcel(message) for message in messages})
            del messages
            while self._waiting or (self._may_return() and num_answers < self._enough):
                left = self._end - time.monotonic()
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

    def _send(self, parcels: dict[int, _Parcel]) -> None:
        left = self._end - time.monotonic()
        for parcel in parcels.values():
            parcel.message.metadata.ttl = (
                max(left, 0.0) + TTL_SPARE_S + time.time() - parcel.message.metadata.created_at
            )
        names = push(self._grid, [parcel.message for parcel in parcels.values()])
        for name, (node, parcel) in zip(names, parcels.items(), strict=True):
            parcel.since, parcel.asked = time.monotonic(), parcel.asked + 1
            self._waiting[node] = parcel
            threading.Thread(target=self._fetch, args=(node, parcel, name), daemon=True).start()

    def _fetch(self, node: int, parcel: _Parcel, name: str) -> None:
        """Look for one reply until it is there or nobody wants it."""
        down_since: float | None = None
        while not parcel.unwanted.is_set():
            try:
                for reply in self._grid.pull_messages([name]):
                    if reply.metadata.reply_to_message_id == name:
                        self._arrived.put((node, parcel, reply, time.monotonic()))
                        return
                down_since = None
            except httpx.HTTPError as error:
                now = time.monotonic()
                down_since = now if down_since is None else down_since
                if now - down_since >= LINK_DOWN_S:
                    self._arrived.put((node, parcel, error, now))
                    return
            except Exception as error:
                self._arrived.put((node, parcel, error, time.monotonic()))
                return
            parcel.unwanted.wait(POLL_S)

    def _next(self, seconds: float) -> Answer | None:
        """The next reply that arrives within a poll's time; a lost one is put aside."""
        try:
            node, parcel, reply, when = self._arrived.get(timeout=min(seconds, POLL_S))
        except queue.Empty:
            return None
        if isinstance(reply, Exception):
            raise reply
        del self._waiting[node]
        if is_lost(reply):
            self._lost[node] = parcel
            return None
        return Answer(node, reply, when - parcel.since, parcel.asked)

    def _may_return(self) -> dict[int, _Parcel]:
        return {node: parcel for node, parcel in self._lost.items() if parcel.asked < MOST_ASKED}

    def _ask_again(self) -> None:
        """Send anew to nodes that were lost and are connected."""
        if time.monotonic() >= self._end or not (again := self._may_return()):
            return
        there = connected(self._grid)
        for node, parcel in again.items():
            if node in there:
                del self._lost[node]
                before = parcel.message
                message = Message(
                    before.content, node, before.metadata.message_type, group_id=before.metadata.group_id
                )
                self._send({node: _Parcel(message, asked=parcel.asked)})
