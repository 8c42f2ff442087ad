"""A Grid that passes only sound replies on, so that every strategy of Flower can be used as it is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from configs.errors import UserError
from strategies.checks import ARRAYS, Limits, Rejected, TrainFacts, check_train_reply, decode

MOST_TOLD = 4
"""Rejected sites that one error line names; the history has them all."""


class TooFewReplies(UserError):
    """A round that may not be averaged."""


@dataclass
class Traffic:
    """What one round of training sent and got."""

    facts: dict[str, TrainFacts] = field(default_factory=dict[str, TrainFacts])
    bytes_up: dict[str, int] = field(default_factory=dict[str, int])
    bytes_down: dict[str, int] = field(default_factory=dict[str, int])
    rejected: list[Rejected] = field(default_factory=list[Rejected])


class CheckedGrid(Grid):
    """Wraps a Grid for one study.

    Guarantees, for training messages:
        - Only admitted sites are seen and asked.
        - A reply is yielded only if `check_train_reply` found it sound; otherwise it is in
          `traffic.rejected` with its site and reason, as is a site that did not answer in time.
        - Replies come sorted by site, whatever the order of arrival; one that waits for its turn is
          held back, nothing else is kept. With a Grid that asks lazily, one reply is alive at a time.
        - With fewer sound replies than `min_sites`, reading them ends in `TooFewReplies`, so that no
          strategy can average them.
    """

    def __init__(
        self,
        inner: Grid,
        sites: Mapping[int, str],
        limits: Limits,
        min_sites: int,
        *,
        patience_s: float = 3600.0,
    ) -> None:
        self._inner = inner
        self._sites = dict(sites)
        self._limits = limits
        self._min_sites = min_sites
        self._patience_s = patience_s
        self._lonely_since: float | None = None
        self.traffic = Traffic()

    def set_run(self, run: Run) -> None:
        """As the wrapped Grid."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """As the wrapped Grid."""
        return self._inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As the wrapped Grid."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The admitted sites' nodes that are connected, sorted by the sites' names.

        Flower's strategies ask again and again until enough nodes are there.

        Raises:
            TooFewReplies: if fewer than `min_sites` have been there for `patience_s` seconds.
        """
        connected = set(self._inner.get_node_ids())
        nodes = [node for node in self._by_name(self._sites) if node in connected]
        if len(nodes) >= self._min_sites:
            self._lonely_since = None
            return nodes
        now = time.monotonic()
        self._lonely_since = now if self._lonely_since is None else self._lonely_since
        if now - self._lonely_since >= self._patience_s:
            raise TooFewReplies(
                f"{len(nodes)} admitted sites are connected, {self._min_sites} needed "
                f"(federation.min_sites), after {self._patience_s:g} s"
            )
        return nodes

    def get_nodes(self) -> Iterable[NodeInfo]:
        """As `get_node_ids`."""
        return [node for node in self._inner.get_nodes() if node.node_id in self._sites]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not offered: replies would pass unchecked."""
        raise NotImplementedError("replies are checked in send_and_receive only")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not offered: replies would pass unchecked."""
        raise NotImplementedError("replies are checked in send_and_receive only")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send to admitted sites; yield the sound replies, sorted by site, as they are read."""
        waiting = {message.metadata.dst_node_id: message for message in messages}
        strangers = waiting.keys() - self._sites.keys()
        assert not strangers, f"a strategy asked nodes that were not admitted: {sorted(strangers)}"
        ordered = [waiting[node] for node in self._by_name(waiting)]
        if any(message.metadata.message_type.split(".")[0] != MessageType.TRAIN for message in ordered):
            raise NotImplementedError("only training goes through the checked grid")
        return self._receive(ordered, timeout)

    def _receive(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        self.traffic = Traffic()
        if not messages:
            return
        sites = [self._sites[message.metadata.dst_node_id] for message in messages]
        self.traffic.bytes_down = {
            site: num_bytes(message.content) for site, message in zip(sites, messages, strict=True)
        }
        start = _tensors(messages[0])
        replies = self._inner.send_and_receive(messages, timeout=timeout)
        del messages
        num_sound = 0
        for site, reply in _in_order(replies, sites, self._sites):
            if reply is None:
                limit = f" within {timeout:g} s" if timeout is not None else ""
                self.traffic.rejected.append(Rejected(site, f"site '{site}' did not answer{limit}"))
                continue
            verdict = self._judge(reply, site, start)
            if isinstance(verdict, Rejected):
                self.traffic.rejected.append(verdict)
                continue
            self.traffic.facts[site] = verdict
            num_sound += 1
            yield reply
            del reply
        if num_sound < self._min_sites:
            raise TooFewReplies(
                f"{num_sound} of {len(sites)} sites sent a sound reply, {self._min_sites} needed "
                f"(federation.min_sites){told(self.traffic.rejected)}"
            )

    def _judge(self, reply: Message, site: str, start: Mapping[str, Tensor]) -> TrainFacts | Rejected:
        if reply.has_content():
            self.traffic.bytes_up[site] = num_bytes(reply.content)
        return check_train_reply(reply, site=site, start=start, limits=self._limits)

    def _by_name(self, nodes: Iterable[int]) -> list[int]:
        return sorted(nodes, key=lambda node: self._sites[node])


def told(rejected: Sequence[Rejected]) -> str:
    """The first reasons, to be added to a line; nothing if there are none."""
    reasons = [entry.reason for entry in rejected[:MOST_TOLD]]
    if len(rejected) > MOST_TOLD:
        reasons.append(f"and {len(rejected) - MOST_TOLD} more")
    return "".join(f"; {reason}" for reason in reasons)


def num_bytes(content: RecordDict) -> int:
    """Size of a message's records in bytes: names, values and the arrays' own headers."""
    return sum(len(name) + record.count_bytes() for name, record in content.items())


def _tensors(message: Message) -> dict[str, Tensor]:
    """The shared tensors in an outgoing message: what the replies are compared with."""
    record = message.content[ARRAYS]
    assert isinstance(record, ArrayRecord), "a training message carries the shared tensors"
    return {
        name: decode(array, name=name, shape=tuple(array.shape), sender="the server")
        for name, array in record.items()
    }


def _in_order(
    replies: Iterable[Message], sites: list[str], names: Mapping[int, str]
) -> Iterator[tuple[str, Message | None]]:
    """Each site in the given order with its reply, or None if there is none. A second reply is ignored."""
    early: dict[str, Message] = {}
    turn = 0
    for reply in replies:
        site = names.get(reply.metadata.src_node_id)
        if site is None or site not in sites[turn:] or site in early:
            continue
        early[site] = reply
        del reply
        while turn < len(sites) and sites[turn] in early:
            yield sites[turn], early.pop(sites[turn])
            turn += 1
    for site in sites[turn:]:
        yield site, early.pop(site, None)
