"""A Grid that passes only sound replies on, so that every strategy of Flower can be used as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from climb_model.sharing import outgoing
from configs.errors import UserError
from strategies.checks import (
    ARRAYS,
    CONFIG,
    Limits,
    Rejected,
    TrainFacts,
    check_train_reply,
    decode,
    restored,
)
from strategies.deadline import Deadlines
from strategies.post import Answer, ask, connected, is_remote

MOST_TOLD = 4
"""Rejected sites that one error line names; the history has them all."""

NOTICE = "notice"
"""Key of the training message's settings under which a site is told, in one line, what concerns it alone."""

ROUND = "server-round"
"""Flower's own key of the round's number."""


class TooFewReplies(UserError):
    """A round that may not be averaged."""


@dataclass
class Traffic:
    """What one round of training sent and got."""

    facts: dict[str, TrainFacts] = field(default_factory=dict[str, TrainFacts])
    bytes_up: dict[str, int] = field(default_factory=dict[str, int])
    bytes_down: dict[str, int] = field(default_factory=dict[str, int])
    wall_s: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds to each site's whole reply, where somebody measured them."""

    deadline_s: float | None = None
    """Seconds that remote sites had."""

    rejected: list[Rejected] = field(default_factory=list[Rejected])
    notices: list[str] = field(default_factory=list[str])


class CheckedGrid(Grid):
    """Wraps a Grid for one study.

    Guarantees, for training messages:
        - Only admitted sites are seen and asked. One that is not connected is in `traffic.rejected`.
        - Tensors travel as `limits.payload` says; strategies give and get float32.
        - A reply is yielded only if `check_train_reply` found it sound; otherwise it is in
          `traffic.rejected` with its site and reason, as is a site that did not answer in time.
        - Replies come sorted by site, whatever the order of arrival; one that waits for its turn is
          held back, nothing else is kept. With a Grid that asks lazily, one reply is alive at a time.
        - With fewer sound replies than `min_sites`, reading them ends in `TooFewReplies`, so that no
          strategy can average them.
        - Remote sites have until the round's deadline. A site that was late is told so in its next message.
    """

    def __init__(
        self,
        inner: Grid,
        sites: Mapping[int, str],
        limits: Limits,
        min_sites: int,
        *,
        patience_s: float = 3600.0,
        deadlines: Deadlines | None = None,
        late: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            late: site to what it is told in its next message, as `late_sites` gives it.
            patience_s: how long to wait while too few sites are connected.
            deadlines: of remote sites; None: `send_and_receive`'s timeout is the deadline.
        """
        self._inner = inner
        self._sites = dict(sites)
        self._limits = limits
        self._min_sites = min_sites
        self._patience_s = patience_s
        self._deadlines = deadlines
        self._lonely_since: float | None = None
        self._absent: list[str] = []
        self._late = dict(late or {})
        self.traffic = Traffic()

    @property
    def sites(self) -> Mapping[int, str]:
        """Node to admitted site."""
        return dict(self._sites)

    def admit(self, sites: Mapping[int, str]) -> None:
        """Let further sites take part from the next round on."""
        self._sites |= sites

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
        there = connected(self._inner)
        nodes = [node for node in self._by_name(self._sites) if node in there]
        self._absent = [site for node, site in sorted(self._sites.items()) if node not in there]
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
        self.traffic = traffic = Traffic()
        if not messages:
            return
        sites = [self._sites[message.metadata.dst_node_id] for message in messages]
        absent = [site for site in self._absent if site not in sites]
        traffic.rejected += [Rejected(site, f"site '{site}' was not connected") for site in absent]
        number = messages[0].content[CONFIG].get(ROUND)
        start = _tensors(messages[0])
        packed = self._packed(messages, sites, start)
        del messages
        verdicts: dict[str, TrainFacts | Rejected] = {}
        answers = self._judged(self._asked(packed, sites, timeout), sites, start, verdicts)
        del packed
        for site, answer in _in_order(answers, sites, self._sites):
            reply, answer.reply = answer.reply, None
            if answer.asked > 1:
                traffic.notices.append(
                    f"site '{site}' was asked {answer.asked} times: its connection was lost"
                )
            if reply is None:
                self._note_silence(site, answer, traffic.deadline_s or timeout, number)
                continue
            verdict = verdicts[site]
            if isinstance(verdict, Rejected):
                traffic.rejected.append(verdict)
                continue
            self._note_sound(site, answer, verdict)
            self._restore(reply, site, start)
            yield reply
            del reply
        if len(traffic.facts) < self._min_sites:
            raise TooFewReplies(
                f"{len(traffic.facts)} of {len(sites)} sites sent a sound reply, {self._min_sites} needed "
                f"(federation.min_sites){told(traffic.rejected)}"
            )

    def _asked(
        self, messages: Sequence[Message], sites: Sequence[str], timeout: float | None
    ) -> Iterator[Answer]:
        """The answers as they arrive. `traffic.deadline_s` can bring the end nearer meanwhile."""
        if not is_remote(self._inner):
            return ask(self._inner, messages, seconds=timeout, enough=self._min_sites)
        traffic = self.traffic
        both_ways = 2 * max(traffic.bytes_down[site] for site in sites)
        traffic.deadline_s = timeout if self._deadlines is None else self._deadlines.seconds(sites, both_ways)
        return ask(self._inner, messages, seconds=lambda: traffic.deadline_s or 0.0, enough=self._min_sites)

    def _judged(
        self,
        answers: Iterator[Answer],
        sites: Sequence[str],
        start: Mapping[str, Tensor],
        verdicts: dict[str, TrainFacts | Rejected],
    ) -> Iterator[Answer]:
        """Each answer as it arrives, its reply judged; after half of the sites the others' time is known."""
        begin, num_sound = time.monotonic(), 0
        half = max(math.ceil(len(sites) / 2), self._min_sites)
        measured = self._deadlines is None or self._deadlines.measured(sites)
        for answer in answers:
            site = self._sites.get(answer.node)
            if answer.reply is not None and site is not None and site in sites and site not in verdicts:
                verdicts[site] = verdict = self._judge(answer.reply, site, start)
                num_sound += isinstance(verdict, TrainFacts)
                waited_for = len(verdicts) < len(sites)
                if num_sound == half and isinstance(verdict, TrainFacts) and waited_for and not measured:
                    self._hasten(site, time.monotonic() - begin)
            yield answer
            del answer

    def _hasten(self, site: str, half_s: float) -> None:
        traffic = self.traffic
        if self._deadlines is not None and traffic.deadline_s is not None:
            both_ways = traffic.bytes_down[site] + traffic.bytes_up[site]
            traffic.deadline_s = min(traffic.deadline_s, self._deadlines.after_half(half_s, both_ways))

    def _packed(
        self, messages: Iterable[Message], sites: Iterable[str], start: Mapping[str, Tensor]
    ) -> list[Message]:
        """The messages as they travel: tensors of the payload's type, one record for all; own settings."""
        arrays: ArrayRecord | None = None
        if self._limits.payload != "float32":
            rounded = outgoing(start, self._limits.payload, sender="the server")
            arrays = ArrayRecord({name: Array(value.numpy()) for name, value in rounded.items()})
        packed: list[Message] = []
        for site, message in zip(sites, messages, strict=True):
            records = dict(message.content)
            config = records[CONFIG]
            assert isinstance(config, ConfigRecord), "a training message has settings"
            if site in self._late:
                records[CONFIG] = ConfigRecord({**config, NOTICE: self._late.pop(site)})
            if arrays is not None:
                records[ARRAYS] = arrays
            message.content = RecordDict(records)
            self.traffic.bytes_down[site] = num_bytes(message.content)
            packed.append(message)
        return packed

    def _note_silence(self, site: str, answer: Answer, seconds: float | None, number: object) -> None:
        if answer.fault is not None:
            self.traffic.rejected.append(Rejected(site, f"site '{site}' {answer.fault}"))
            return
        self.traffic.rejected.append(Rejected(site, _silence(site, seconds)))
        if seconds is not None:
            self._late[site] = _too_late(number, seconds)

    def _note_sound(self, site: str, answer: Answer, facts: TrainFacts) -> None:
        self.traffic.facts[site] = facts
        if answer.wall_s is not None:
            self.traffic.wall_s[site] = answer.wall_s
            if self._deadlines is not None:
                self._deadlines.learn(site, answer.wall_s)

    def _judge(self, reply: Message, site: str, start: Mapping[str, Tensor]) -> TrainFacts | Rejected:
        if reply.has_content():
            self.traffic.bytes_up[site] = num_bytes(reply.content)
        return check_train_reply(reply, site=site, start=start, limits=self._limits)

    def _restore(self, reply: Message, site: str, start: Mapping[str, Tensor]) -> None:
        arrays = reply.content[ARRAYS]
        assert isinstance(arrays, ArrayRecord), "a sound reply"
        reply.content[ARRAYS] = restored(arrays, start, self._limits.payload, sender=f"site '{site}'")

    def _by_name(self, nodes: Iterable[int]) -> list[int]:
        return sorted(nodes, key=lambda node: self._sites[node])


def late_sites(
    number: int, rejected: Iterable[Mapping[str, str]], deadline_s: float | None
) -> dict[str, str]:
    """Site to what it is told in its next message, of those that were late in a round of the history.

    Args:
        number: of the round.
        rejected: `site` and `reason` of whoever was rejected in it.
    """
    if deadline_s is None:
        return {}
    silent = [one["site"] for one in rejected if one["reason"] == _silence(one["site"], deadline_s)]
    return {site: _too_late(number, deadline_s) for site in silent}


def told(rejected: Sequence[Rejected]) -> str:
    """The first reasons, to be added to a line; nothing if there are none."""
    reasons = [entry.reason for entry in rejected[:MOST_TOLD]]
    if len(rejected) > MOST_TOLD:
        reasons.append(f"and {len(rejected) - MOST_TOLD} more")
    return "".join(f"; {reason}" for reason in reasons)


def num_bytes(content: RecordDict) -> int:
    """Size of a message's records in bytes: names, values and the arrays' own headers."""
    return sum(len(name) + record.count_bytes() for name, record in content.items())


def _silence(site: str, seconds: float | None) -> str:
    return f"site '{site}' did not answer{'' if seconds is None else f' within {seconds:g} s'}"


def _too_late(number: object, seconds: float) -> str:
    return f"your reply of round {number} came too late: {seconds:g} s were allowed"


def _tensors(message: Message) -> dict[str, Tensor]:
    """The shared tensors in an outgoing message: what the replies are compared with."""
    record = message.content[ARRAYS]
    assert isinstance(record, ArrayRecord), "a training message carries the shared tensors"
    return {
        name: decode(array, name=name, shape=tuple(array.shape), sender="the server")
        for name, array in record.items()
    }


def _in_order(
    answers: Iterable[Answer], sites: list[str], names: Mapping[int, str]
) -> Iterator[tuple[str, Answer]]:
    """Each site in the given order with its answer. One from a stranger is ignored."""
    early: dict[str, Answer] = {}
    turn = 0
    for answer in answers:
        site = names.get(answer.node)
        if site is None or site not in sites[turn:] or site in early:
            continue
        early[site] = answer
        del answer
        while turn < len(sites) and sites[turn] in early:
            yield sites[turn], early.pop(sites[turn])
            turn += 1
