"""A node's folder, small bundles, and a SuperNode that is none."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.egress.egress import Egress
from client.egress.policy import Policy, default_policy, write_policy
from client.node.bundle import Approvals, bundle_digest, files_of_fab, own_contents
from client.node.gate import Gate
from client.node.runtime import Received
from client.node.settings import NodePaths, NodeSettings, Quotas, write_node

COORDINATOR = "ab" * 32
PROJECT = '[project]\nname = "climb-federated"\nversion = "9.9.9"\n'

APP = '''
"""An app that answers an update of one tensor."""
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    facts = {"num-exams": 900, "num-tokens": 99999, "num-batch-tokens": 999, "num-steps": 900}
    context.state["behind-update"] = MetricRecord(facts)
    metrics = MetricRecord({"num-examples": 9, "num-steps": 9, "loss": 1.0, "seconds": 1.0})
    arrays = message.content["arrays"]
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
'''


def _make_fab(files: Mapping[str, str]) -> bytes:
    """A bundle of these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


def _small_bundle(app: str = APP, **more: str) -> bytes:
    """A bundle whose `client.app` is this text."""
    return _make_fab({"pyproject.toml": PROJECT, "client/__init__.py": "", "client/app.py": app, **more})


def _received(bundle: bytes, kind: str = "train", *, ttl: float = 60.0, preset: str = "debug") -> Received:
    """A message as the SuperNode gives it."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 7, 11, 13
    content = RecordDict(
        {
            "arrays": ArrayRecord({"log_scale": Array(np.array(2.5, np.float32))}),
            "config": ConfigRecord({"server-round": 3, "global-step": 0}),
        }
    )
    message = Message(content, dst_node_id=13, message_type=kind, ttl=ttl)
    message.metadata.__dict__["_message_id"] = "message-1"
    context = Context(11, 13, {}, RecordDict(), {"study": "study", "preset": preset, "overrides": "[]"}, 5)
    return Received(message, context, bundle)


@dataclass
class OneTask:
    """A task of a SuperNode that is none."""

    holds: Received
    lost: threading.Event = field(default_factory=threading.Event)
    replies: list[Message] = field(default_factory=list[Message])

    def __enter__(self) -> OneTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def pull(self) -> Received:
        return self.holds

    def push(self, reply: Message, context: Context) -> None:
        assert context is self.holds.context
        self.replies.append(reply)


@dataclass
class Runtime:
    """Gives the tasks that a test puts in."""

    tasks: list[OneTask] = field(default_factory=list[OneTask])

    def acquire(self) -> OneTask | None:
        return self.tasks.pop(0) if self.tasks else None


@dataclass
class Node:
    """A site's node with its gate."""

    paths: NodePaths
    settings: NodeSettings
    gate: Gate
    runtime: Runtime
    log: list[str]

    def ask(self, came: Received, stop: threading.Event | None = None) -> RecordDict:
        """What leaves for a message."""
        task = self.task(came)
        assert self.gate.work_once(stop or threading.Event())
        [reply] = task.replies
        assert reply.metadata.reply_to_message_id == "message-1"
        return reply.content

    def task(self, came: Received) -> OneTask:
        """The next task of the gate."""
        self.runtime.tasks.append(task := OneTask(came))
        return task

    def refused(self, came: Received, stop: threading.Event | None = None) -> str:
        """The line of the refusal, which is all that leaves."""
        content = self.ask(came, stop)
        assert list(content) == ["refused"]
        words = content.config_records["refused"]
        assert set(words) == {"site", "refused"}
        return str(words["refused"])

    def approve(self, bundle: bytes) -> str:
        """Let a bundle run, as after its first message."""
        digest = bundle_digest(files_of_fab(bundle))
        self.refused(_received(bundle))
        return Approvals(self.paths.bundles).approve(digest, "2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="session")
def own() -> dict[str, bytes]:
    """This checkout's own bundle, made once."""
    return own_contents()


@pytest.fixture(scope="session")
def policy() -> Policy:
    """What a site begins with."""
    return default_policy((COORDINATOR,))


@pytest.fixture
def make_node(
    tmp_path: Path, own: dict[str, bytes], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Node]:
    """A node's folder and a gate in it, without a SuperNode."""
    monkeypatch.setattr("client.node.gate.own_contents", lambda: own)

    def make(**quotas: int) -> Node:
        paths = NodePaths(tmp_path / "node")
        (tmp_path / "data").mkdir(exist_ok=True)
        settings = NodeSettings(
            name="H",
            server="server.example:8443",
            data=tmp_path / "data",
            private=tmp_path / "private",
            devices="cpu",
            quotas=Quotas(**quotas),
        )
        write_node(paths.folder, settings)
        write_policy(paths.policy, policy)
        runtime, log = Runtime(), list[str]()
        egress = Egress(settings.private, paths.policy, settings.name, end=paths.audit_end)
        gate = Gate(paths, settings, runtime, egress, coordinator=COORDINATOR, say=log.append)
        return Node(paths, settings, gate, runtime, log)

    return make


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()


@pytest.fixture
def received() -> Callable[..., Received]:
    """A message as the SuperNode gives it."""
    return _received


@pytest.fixture
def small_bundle() -> Callable[..., bytes]:
    """A bundle whose `client.app` is the text that is given, else one that answers an update."""
    return _small_bundle
