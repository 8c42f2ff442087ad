"""The server's three programs, from the start to the signal that ends them."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import cast

from climb_model.atomic import write_text_atomic
from climb_model.kit import certificate_sha256, spaced
from climb_model.lock import LockedError, only_process
from climb_model.supervisor import ServiceState, Supervisor, end_left_behind
from server.deployment.flower import HOME_VARIABLE
from server.deployment.home import Home, check_files, expiries
from server.deployment.ports import check_ports
from server.deployment.proxy import proxy_service
from server.deployment.superlink import connect, superexec_service, superlink_service

STATUS = "status.json"
LOCK = "lock"
LOCK_S = 5.0
"""Seconds that a server which is just being stopped has to leave its folder."""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """What `status.json` says, if a server runs; else that none does."""

    pid: int | None
    """Of the supervisor; None: the server does not run."""

    services: Mapping[str, ServiceState]
    """By name, as they were when the last one changed; empty where the server does not run."""

    def ready(self, name: str) -> bool:
        """Whether a program does its work."""
        return name in self.services and self.services[name].ready

    def to_json(self) -> dict[str, object]:
        """The status as JSON's types."""
        return {"pid": self.pid, "services": {name: asdict(one) for name, one in self.services.items()}}


def start(home: Home, say: Callable[[str], None], stop: threading.Event) -> None:
    """Run SuperLink, superexec and proxy until `stop` is set.

    Args:
        say: told the lines that an admin needs, then one whenever a program starts or ends.

    Raises:
        LockedError: if a server runs in this folder already.
        UserError: if a port is taken, nginx or Flower is missing, or a key or certificate.
    """
    with only_process(home.path / LOCK, what=f"is the server of {home.path}", wait_s=LOCK_S):
        end_left_behind(HOME_VARIABLE, str(home.flower))
        check_files(home)
        check_ports(home)
        connect(home)
        services = [superlink_service(home), superexec_service(home), proxy_service(home)]
        for line in heading(home):
            say(line)
        Supervisor(services, say, changed=lambda states: _write(home, states)).run_until(stop)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set from now on; for the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def heading(home: Home) -> list[str]:
    """Where sites reach the server, by what they know it, and until when its certificates are good."""
    settings = home.settings()
    return [
        f"server of {home.path}",
        f"sites connect to {settings.server} (listens on {settings.listen})",
        f"fingerprint of its authority: {spaced(certificate_sha256(home.authority_certificate()))}",
        *(expiry.line for expiry in expiries(home)),
    ]


def status(home: Home) -> ServerStatus:
    """Whether the server runs, and its programs."""
    try:
        with only_process(home.path / LOCK, what="is the server"):
            return ServerStatus(pid=None, services={})
    except LockedError:
        pass
    try:
        values = cast(dict[str, object], json.loads((home.path / STATUS).read_text("utf-8")))
    except OSError:
        return ServerStatus(pid=None, services={})
    services = cast(dict[str, dict[str, object]], values["services"])
    return ServerStatus(
        pid=cast(int, values["pid"]),
        services={name: ServiceState(**state) for name, state in services.items()},  # type: ignore[arg-type]
    )


def _write(home: Home, states: Mapping[str, ServiceState]) -> None:
    values = ServerStatus(pid=os.getpid(), services=states).to_json()
    write_text_atomic(home.path / STATUS, json.dumps(values, indent=2) + "\n")
