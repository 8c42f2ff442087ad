"""Flower's two programs of the server: on loopback, with TLS and authenticated nodes."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path

from climb_model.environment import NO_HUB, SMALL_PIECES
from climb_model.supervisor import Service
from server.deployment.flower import environment, script, write_connection
from server.deployment.home import Home
from server.place import VARIABLE as PLACE_VARIABLE

LOOPBACK = "127.0.0.1"

READY_S = 120.0
"""Seconds that the SuperLink may need: a large database on a slow disk takes its time."""


def superlink_service(home: Home) -> Service:
    """The SuperLink: state in a database, apps in other processes, nodes known by their keys."""
    port = home.settings().superlink_port
    command = [
        *script("flower-superlink"),
        *("--host", LOOPBACK, "--port", str(port)),
        *("--ssl-certfile", str(home.loopback_certificate)),
        *("--ssl-keyfile", str(home.loopback_key)),
        *("--ssl-ca-certfile", str(home.ca_certificate)),
        "--enable-supernode-auth",
        *("--isolation", "process"),
        *("--database", str(home.database)),
        *("--superexec-auth-secret-file", str(home.superexec_secret)),
        "--disable-runtime-dependency-installation",
    ]
    return Service(
        "superlink",
        command,
        {**environment(home.flower), **NO_HUB},
        home.logs / "superlink.log",
        ready=lambda: healthy(LOOPBACK, port, home.ca_certificate),
        ready_s=READY_S,
    )


def superexec_service(home: Home) -> Service:
    """Starts each study's ServerApp, which finds its place in the folder of studies."""
    command = [
        *script("flower-superexec"),
        *("--runtime-api-address", f"{LOOPBACK}:{home.settings().superlink_port}"),
        *("--root-certificates", str(home.ca_certificate)),
        *("--superexec-auth-secret-file", str(home.superexec_secret)),
    ]
    ours = {PLACE_VARIABLE: str(home.studies), **SMALL_PIECES}
    inherited = {**environment(home.flower), **NO_HUB, **ours}
    return Service("superexec", command, inherited, home.logs / "superexec.log")


def connect(home: Home) -> None:
    """Write the connection with which our calls of Flower's command line find the SuperLink."""
    write_connection(home.flower, home.settings().superlink_port, home.ca_certificate)


def healthy(host: str, port: int, ca: Path) -> bool:
    """Whether `/health` answers over TLS with a certificate of the authority `ca`."""
    at = f"[{host}]" if ":" in host else host
    try:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca))),
        )
        with opener.open(f"https://{at}:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
