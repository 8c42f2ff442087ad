"""A real round in the site's fenced process, by a bundle of another version that attacks the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.audit import append, read_log
from client.node.bundle import own_contents
from client.node.child import run_app
from client.node.fence import version
from client.node.runtime import Received
from client.node.settings import NodeSettings, Quotas
from climb_model.model.climb import build_model
from climb_model.run_config import to_run_config
from climb_model.sharing import shared_state
from configs.load import load_settings

SETTINGS = ("training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "training.steps_per_round=0")
ATTACK = """
import os as _os, pathlib as _pathlib

_private = _pathlib.Path({private!r})
for _work in (
    lambda: (_private / "audit.jsonl").open("a").write("x"),
    (_private / "audit.jsonl").unlink,
    lambda: _os.truncate(_private / "audit.jsonl", 0),
    lambda: _private.rename(_private.with_name("moved")),
    (_private / "new").touch,
):
    try:
        _work()
    except OSError:
        continue
    raise SystemExit("the fence has a hole")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """This checkout's bundle as another version of it."""
    root = tmp_path / "root"
    for path, data in own_contents().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    project = (root / "pyproject.toml").read_text("utf-8").splitlines()
    lines = ['version = "99.1.0"' if line.startswith("version = ") else line for line in project]
    (root / "pyproject.toml").write_text("\n".join(lines), "utf-8")
    return root


@pytest.mark.deploy
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])  # several exchange weights in the scratch folder
@pytest.mark.skipif(version() < 3, reason="this kernel's Landlock is older than Linux 6.2")
def test_a_fenced_program_of_another_version_trains_and_leaves_the_audit_log(
    root: Path, make_site: Callable[..., Path], tmp_path: Path, devices: str
) -> None:
    private = tmp_path / "node" / "private"
    append(private, "join", {"site": "H"})
    with (root / "client" / "app.py").open("a") as app:
        app.write(ATTACK.format(private=str(private)))
    study = load_settings("debug", list(SETTINGS))
    settings = NodeSettings(
        name="H",
        server="s:1",
        data=make_site(tmp_path / "data", "H", exams=12),
        private=private,
        devices=devices,
        quotas=Quotas(nice=0),
    )

    def ask(kind: str, content: RecordDict) -> Any:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 7, 11, 13
        message = Message(content, dst_node_id=13, message_type=kind, ttl=600.0)
        message.metadata.__dict__["_message_id"] = "message-1"
        context = Context(11, 13, {}, RecordDict(), dict(to_run_config(study, "study")), 5)
        folder = tmp_path / f"message-{kind}"
        folder.mkdir()
        state = tmp_path / "node" / "state"
        outcome = run_app(Received(message, context, b""), settings, root, folder, state, lambda: None)
        assert outcome.content is not None, outcome.line + (state / "app.log").read_text()
        assert "refused" not in outcome.content, dict(outcome.content["refused"])
        return outcome

    hello = ask("query.hello", RecordDict()).content["hello"]
    assert hello["version"] == "99.1.0"
    arrays = ArrayRecord({name: Array(v.numpy()) for name, v in shared_state(build_model(study)).items()})
    order = ConfigRecord({"server-round": 1, "global-step": 0})
    trained = ask("train", RecordDict({"arrays": arrays, "config": order}))
    assert trained.behind["num-exams"] > 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (private / "study").iterdir()}
    assert modes == {"round-0001.pt": 0o600, "exams.json": 0o600}
    assert (private / "site.log").stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (private / "tokens").iterdir()} == {0o600}
    assert not list((private / "scratch").iterdir())
    assert [entry.kind for entry in read_log(private)] == ["join"]
    assert json.loads((private / "study" / "exams.json").read_text())
