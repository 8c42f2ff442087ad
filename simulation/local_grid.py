"""A Grid that calls the ClientApp in this process: one site at a time, no server, no Ray."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from climb_model.randomness import own_random_states

RUN_ID, SERVER_NODE = 1, 1
CLIENT_APP_RAISED = 2
"""Flower's error code of a ClientApp that raised."""


@dataclass(frozen=True)
class LocalNode:
    """One virtual site: its number and what its `--node-config` would hold."""

    node_id: int
    config: dict[str, str]


class LocalGrid(Grid):
    """Flower's Grid without a network, for one machine and for tests.

    Guarantees:
        - Replies are computed as they are read, in the order of the messages: whoever drops each
          reply before the next holds one at a time, whatever the number of sites.
        - Every client gets its own copy of its message, so one that changes it changes no other's.
        - A client's `Context.state` is its own and is kept only if the client succeeds.
        - A client that raises gives an error reply with the exception's class, never its text.
        - Global random states are the same after a client as before it.
    A client that kills its process kills the run, and a message is never too late.
    """

    def __init__(
        self, client_app: ClientApp, nodes: Sequence[LocalNode], run_config: Mapping[str, str]
    ) -> None:
        self._client_app = client_app
        self._run_config = dict(run_config)
        self._nodes = {node.node_id: node for node in nodes}
        self._states = {node.node_id: RecordDict() for node in nodes}
        self._pushed: dict[str, Message] = {}
        self._run = Run.create_empty(RUN_ID)
        # Message() reads these; Flower's own processes set them on start.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER_NODE

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in the order they were given in."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; their clients run when the replies are pulled."""
        identifiers: list[str] = []
        for message in messages:
            identifier = str(uuid4())
            self._pushed[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to pushed messages, computed as they are read."""
        for identifier in message_ids:
            if identifier in self._pushed:
                yield self._ask(self._pushed.pop(identifier), identifier)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Replies in the order of the messages, computed as they are read; `timeout` does not apply."""
        del timeout
        return self._replies(list(messages))

    def _replies(self, messages: list[Message]) -> Iterator[Message]:
        messages.reverse()
        while messages:
            yield self._ask(messages.pop(), str(uuid4()))

    def _ask(self, message: Message, identifier: str) -> Message:
        node = self._nodes[message.metadata.dst_node_id]
        context = Context(
            run_id=self._run.run_id,
            node_id=node.node_id,
            node_config=dict(node.config),
            state=copy.deepcopy(self._states[node.node_id]),
            run_config=dict(self._run_config),
        )
        request = copy.copy(message)
        request.__dict__["_metadata"] = copy.copy(message.metadata)
        request.content = _copied(message.content)
        request.metadata.__dict__["_message_id"] = identifier
        with own_random_states():
            try:
                reply = self._client_app(request, context)
            except Exception as error:  # any client's failure is that client's
                return Message(Error(CLIENT_APP_RAISED, type(error).__name__), reply_to=request)
        self._states[node.node_id] = context.state
        return reply


def _copied(content: RecordDict) -> RecordDict:
    """Own records with own entries. The arrays' bytes cannot be changed and are shared."""
    copied: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            copied[name] = ArrayRecord(dict(record))
        elif isinstance(record, MetricRecord):
            copied[name] = MetricRecord(copy.deepcopy(dict(record)))
        else:
            copied[name] = ConfigRecord(copy.deepcopy(dict(record)))
    return RecordDict(copied)
