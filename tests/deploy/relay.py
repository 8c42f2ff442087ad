"""A link between two programs that is slow, stalls or is cut, and one that reads everything."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

CHUNK = 8192
"""Bytes that are passed on at once: small beside what a slow link carries in a second."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """How a link behaves, in each direction by itself."""

    rate: float | None = None
    """Bits a second; None is without a limit."""

    delay_s: float = 0.0
    """Seconds that each byte is under way."""

    stall_every_s: float | None = None
    """After so many seconds nothing passes ..."""

    stall_s: float = 0.0
    """... for so long."""


@dataclass
class _Direction:
    """One direction of a link, shared by all its connections."""

    link: Link
    num_bytes: int = 0
    free: float = 0.0
    begin: float = field(default_factory=time.monotonic)

    async def carry(self, num_bytes: int) -> float:
        """Wait until the bytes have left; returns when they arrive, in monotonic seconds."""
        if self.link.rate is not None:
            self.free = max(self.free, time.monotonic()) + 8 * num_bytes / self.link.rate
            await asyncio.sleep(self.free - time.monotonic())
        if self.link.stall_every_s is not None:
            inside = (time.monotonic() - self.begin) % (self.link.stall_every_s + self.link.stall_s)
            if inside > self.link.stall_every_s:
                rest = self.link.stall_every_s + self.link.stall_s - inside
                self.free = max(self.free, time.monotonic()) + rest
                await asyncio.sleep(rest)
        self.num_bytes += num_bytes
        return time.monotonic() + self.link.delay_s


class Relay:
    """Listens on a free port and passes all to a target, in a thread of its own.

    While it is cut, nothing passes and no connection ends, as when a cable is out; connections that are
    opened meanwhile wait. `restore` lets all go on.

    Args:
        target: host and port to pass connections to.
        link: how both directions behave.
        outside: TLS context of the port that listens; None passes bytes as they are.
        inside: TLS context to the target; needs `server_name`.
        record: folder for every byte that passes: `NUMBER.up` and `NUMBER.down` of each connection.
    """

    def __init__(
        self,
        target: tuple[str, int],
        link: Link | None = None,
        *,
        host: str = "127.0.0.1",
        outside: ssl.SSLContext | None = None,
        inside: ssl.SSLContext | None = None,
        server_name: str | None = None,
        record: Path | None = None,
    ) -> None:
        self._target, self._host = target, host
        self._outside, self._inside, self._server_name = outside, inside, server_name
        self._record = record
        self._up, self._down = _Direction(link or Link()), _Direction(link or Link())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._num_connections = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start()).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def bytes_up(self) -> int:
        """Bytes that came from those who connected."""
        return self._up.num_bytes

    @property
    def bytes_down(self) -> int:
        """Bytes that came from the target."""
        return self._down.num_bytes

    @property
    def num_connections(self) -> int:
        """Connections that were opened so far."""
        return self._num_connections

    def cut(self) -> None:
        """Let nothing pass any more."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def restore(self) -> None:
        """Let everything pass again."""
        self._loop.call_soon_threadsafe(self._open.set)

    def drop(self) -> None:
        """End all connections that are open, as a router does that starts anew."""
        self._call(self._drop()).result(10)

    def _call(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._server = await asyncio.start_server(self._connected, self._host, 0, ssl=self._outside)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        await self._drop()
        for writer in self._writers:
            writer.transport.abort()  # a peer that has gone would not answer the end of TLS
        await asyncio.sleep(0.1)

    async def _drop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self._num_connections += 1
        number = self._num_connections
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection(
                *self._target, ssl=self._inside, server_hostname=self._server_name
            )
            self._writers.add(far_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(reader, far_writer, self._up, f"{number}.up"))
                    group.create_task(self._pass(far_reader, writer, self._down, f"{number}.down"))
            finally:
                far_writer.close()
        except* (OSError, asyncio.CancelledError):
            pass  # a peer that has gone, or the end of the relay
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction, name: str
    ) -> None:
        """Read, wait for the link's turn, and hand over to the one who delivers later."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def deliver() -> None:
            while True:
                due, content = await under_way.get()
                await asyncio.sleep(due - time.monotonic())
                await self._open.wait()
                if not content:
                    if writer.can_write_eof():
                        writer.write_eof()
                    else:
                        writer.close()
                    return
                writer.write(content)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while content := await reader.read(CHUNK):
                await self._open.wait()
                self._keep(name, content)
                await under_way.put((await direction.carry(len(content)), content))
            await under_way.put((time.monotonic() + direction.link.delay_s, b""))

    def _keep(self, name: str, content: bytes) -> None:
        if self._record is not None:
            with (self._record / name).open("ab") as file:
                file.write(content)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS of a port that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def recorded(folder: Path) -> bytes:
    """Every byte that a recording relay has passed, connection by connection."""
    return b"\n".join(path.read_bytes() for path in sorted(folder.iterdir()))
