"""Whether the server's ports are free before its programs start, and else who holds them."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from configs.errors import UserError
from server.deployment.home import Home
from server.deployment.superlink import LOOPBACK

_LISTENS = "0A"
"""The kernel's number of the state in its tables of TCP sockets."""


class PortError(UserError):
    """A port of the server that cannot be listened on; one line."""


def check_ports(home: Home) -> None:
    """See that the SuperLink and the proxy will be able to listen.

    Raises:
        PortError: naming the setting and, where the system tells it, the process that holds the port.
    """
    settings = home.settings()
    _check(LOOPBACK, settings.superlink_port, f"superlink_port of {home.settings_file}")
    _check(settings.listen, settings.port, f"port of {home.settings_file}")


def _check(address: str, port: int, key: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as both programs do
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            holder = _holder(port)
            why = f"{holder} listens there" if holder else error.strerror
            raise PortError(
                f"port {port} of {address} cannot be listened on ({why}): end that, or set another {key}"
            ) from None


def _holder(port: int) -> str | None:
    """The process that listens on a TCP port; None where the system does not say."""
    sockets = {f"socket:[{number}]" for number in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):
            if any(str(link.readlink()) in sockets for link in (folder / "fd").iterdir()):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                shown = "".join(sign for sign in command if sign.isprintable()).strip()
                return f"process {folder.name}: {shown[:80]}" if shown else f"process {folder.name}"
    return None


def _listening(port: int) -> set[str]:
    """Inodes of the sockets that listen on a TCP port, on any address."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (Path("/proc/net") / table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found
