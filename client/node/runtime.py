"""The tasks of this machine's SuperNode, through Flower's own client and functions."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

RETRY_S = 60.0
"""Seconds that a call waits for a SuperNode that does not answer."""

_SIGNED = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@dataclass(frozen=True)
class Received:
    """What a task holds; nothing of it was run or imported."""

    message: Message
    context: Context
    bundle: bytes


@runtime_checkable
class Task(Protocol):
    """One message to work on; as a context it keeps the SuperNode waiting while the block runs."""

    lost: threading.Event
    """Set when the SuperNode no longer knows the task: nothing can be answered."""

    def __enter__(self) -> Task: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def pull(self) -> Received:
        """The message, its context and the bundle."""
        ...

    def push(self, reply: Message, context: Context) -> None:
        """Hand the reply to the SuperNode and end the task.

        Args:
            context: as it came.
        """
        ...


@runtime_checkable
class Runtime(Protocol):
    """Where tasks come from."""

    def acquire(self) -> Task | None:
        """The next task; None if there is none or the SuperNode does not answer."""
        ...


class FlowerRuntime:
    """The runtime interface of a SuperNode on this machine's loopback."""

    def __init__(self, address: str, secret: bytes) -> None:
        """
        Args:
            address: `127.0.0.1:port`.
            secret: the one that this SuperNode was started with.
        """
        self._address = address
        self._client = _client(
            address,
            "SuperExec",
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=_SIGNED),
        )

    def acquire(self) -> FlowerTask | None:
        """The next task; None if there is none or the SuperNode does not answer."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        try:
            answer = self._client.AcquireTask(request)
        except httpx.TransportError:
            return None
        if not answer.HasField("task") or not answer.token:
            return None
        return FlowerTask(self._address, answer.token)


class FlowerTask:
    """A task that this process has claimed; see `Task`."""

    def __init__(self, address: str, token: str) -> None:
        self.lost = threading.Event()
        retry = RetryInvoker(lambda: exponential(max_delay=2), httpx.TransportError, None, RETRY_S)
        token_header = RuntimeTokenHttpInterceptor(token)
        self._client = _client(address, "flwr-clientapp", token_header, retry=retry)
        self._beats_client = _client(address, "flwr-clientapp", token_header)
        self._beats = HeartbeatSender(self._beat)

    def __enter__(self) -> FlowerTask:
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # its thread has ended by itself
            self._beats.stop()
        self._client.close()
        self._beats_client.close()

    def pull(self) -> Received:
        """The message, its context and the bundle."""
        message, context, _, fab = pull_task_input(self._client)
        return Received(message, context, fab.content)

    def push(self, reply: Message, context: Context) -> None:
        """Hand the reply to the SuperNode and end the task."""
        push_message(self._client, reply, context)
        push_task_output(self._client, context, SubStatus.COMPLETED, "")

    def _beat(self) -> bool:
        """Tell the SuperNode that the task is worked on; False: try again soon.

        Flower's own function ends the whole process when the task is gone; here the task ends alone.
        """
        try:
            known = self._beats_client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.TransportError:
            return False
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (502, 503, 504):
                return False
            known = False
        if not known:
            self.lost.set()
        return True


def _client(
    address: str,
    component: str,
    more: SuperExecAuthHttpInterceptor | RuntimeTokenHttpInterceptor,
    *,
    retry: RetryInvoker | None = None,
) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=component), more],
        retry_invoker=retry,
    )
