"""The app's process: what it is given, what it is not, and its share of the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from client.audit import append, read_log
from client.node import child, seccomp
from client.node.child import Outcome, environment, run_app, seconds_left
from client.node.fence import version
from client.node.private import writable_places
from client.node.settings import NodeError, NodeSettings, Quotas
from climb_model import logs
from climb_model.clock import REPLY_SPARE_S
from climb_model.lock import only_process
from climb_model.logs import LOG_BYTES

REPORT = '''
import json, os, pathlib, resource, sys
from flwr.clientapp import ClientApp
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

app = ClientApp()

@app.train()
def train(message, context):
    """Answers what it finds around it."""
    facts = {
        "environment": dict(os.environ),
        "nice": os.nice(0),
        "cores": len(os.sched_getaffinity(0)),
        "core_dump": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "session": os.getsid(0) == os.getpid(),
        "node_config": dict(context.node_config),
        "node": [context.run_id, context.node_id, message.metadata.message_id],
        "state": list(context.state),
        "path": sys.path[0],
        "command": pathlib.Path("/proc/self/cmdline").read_bytes().decode().split("\\0"),
    }
    context.state["behind-update"] = MetricRecord({"num-exams": 40, "num-tokens": 900, "num-steps": 3})
    return Message(RecordDict({"found": ConfigRecord({"json": json.dumps(facts)})}), reply_to=message)
'''

STARTED = """
def worker(rank, path):
    seen = {key: value for key, value in os.environ.items() if key.startswith("PYTORCH_")}
    pathlib.Path(path).write_text(json.dumps(seen))
"""
SHARE_OF_HALF = {"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.5"}


def run(
    tmp_path: Path,
    received: Any,
    app: str,
    ended: Callable[[], str | None] = lambda: None,
    data: str = "data",
    private: str = "private",
    state: str = "node/state",
    **quotas: Any,
) -> Outcome:
    """Run an app in a process."""
    root = tmp_path / "root"
    (root / "client").mkdir(parents=True)
    (tmp_path / state).mkdir(parents=True, exist_ok=True)
    (root / "client" / "__init__.py").touch()
    (root / "client" / "app.py").write_text(app)
    settings = NodeSettings(
        name="H",
        server="server.example:8443",
        data=tmp_path / data,
        private=tmp_path / private,
        devices="cpu",
        quotas=Quotas(**quotas),
    )
    folder = tmp_path / "message"
    folder.mkdir()
    return run_app(received(b""), settings, root, folder, tmp_path / state, ended)


def found(outcome: Outcome) -> dict[str, Any]:
    assert outcome.content is not None, outcome.line
    return json.loads(str(outcome.content.config_records["found"]["json"]))


def test_the_process_has_no_secret_and_its_share_of_the_machine(
    tmp_path: Path, received: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLIMB_NODE", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "PYTHONPATH", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    outcome = run(tmp_path, received, REPORT, data="data with 'quotes\"", nice=7, num_threads=1)
    facts = found(outcome)
    assert outcome.behind == {"num-exams": 40, "num-tokens": 900, "num-steps": 3}
    assert "secret" not in facts["environment"].values()
    assert facts["environment"]["CUDA_VISIBLE_DEVICES"] == "1"
    assert facts["environment"]["HF_HUB_OFFLINE"] == facts["environment"]["TRANSFORMERS_OFFLINE"] == "1"
    assert facts["environment"]["FLWR_TELEMETRY_ENABLED"] == "0"
    assert facts["environment"]["HOME"] == str(tmp_path / "message")
    assert (facts["nice"], facts["cores"], facts["core_dump"], facts["session"]) == (7, 1, 0, True)
    assert facts["node_config"]["data"] == str(tmp_path / "data with 'quotes\"")
    assert facts["node"] == [11, 13, "message-1"]
    assert facts["state"] == []
    assert facts["path"] == str(tmp_path / "root")
    assert [Path(word).name for word in facts["command"][-3:]] == ["app_process.py", "message", ""]


FENCED = """
import os, pathlib, signal, socket

def tried(work):
    try:
        work()
    except PermissionError:
        return "refused"
    except OSError as error:
        return type(error).__name__
    return "done"

node = pathlib.Path({node!r})
gate = os.getppid()
facts = {{
    "key": tried((node / "node.key").read_bytes),
    "policy": tried(lambda: (node / "policy.yaml").write_text("all")),
    "approve": tried(lambda: (node / "state" / "bundles" / "approved.json").write_text("all")),
    "unlink": tried((node / "policy.yaml").unlink),
    "data": tried((node.parent / "data" / "report").read_bytes),
    "change_data": tried(lambda: (node.parent / "data" / "report").write_text("x")),
    "study": tried(lambda: (node.parent / "private" / "study" / "kept").write_text("x")),
    "site_log": tried(lambda: (node.parent / "private" / "site.log").open("a").write("x")),
    "private": tried(lambda: (node.parent / "private" / "kept").write_text("x")),
    "other_study": tried((node.parent / "private" / "other" / "round-0001.pt").unlink),
    "elsewhere": tried(lambda: (node.parent / "new").write_text("x")),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", 9), 2)),
    "signal": tried(lambda: os.kill(gate, 0)),
    "memory": tried(lambda: open(f"/proc/{{gate}}/mem", "rb").close()),
}}
"""


@pytest.mark.skipif(version() < 6, reason="this kernel's Landlock is older than Linux 6.12")
def test_the_app_reaches_its_exams_and_nothing_of_the_node(tmp_path: Path, received: Any) -> None:
    node, data = tmp_path / "node", tmp_path / "data"
    other = tmp_path / "private" / "other"
    for folder in (node / "state" / "bundles", data, other):
        folder.mkdir(parents=True)
    for path in (node / "node.key", node / "policy.yaml", data / "report", other / "round-0001.pt"):
        path.write_text("text")
    (node / "node.key").chmod(0o600)
    app = REPORT.replace("app = ClientApp()", FENCED.format(node=str(node)) + "\napp = ClientApp()")
    app = app.replace("    facts = {\n", "    _ = {\n")
    assert found(run(tmp_path, received, app)) == {
        "key": "refused",
        "policy": "refused",
        "approve": "refused",
        "unlink": "refused",
        "data": "done",
        "change_data": "refused",
        "study": "done",
        "site_log": "done",
        "private": "refused",
        "other_study": "refused",
        "elsewhere": "refused",
        "connect": "refused",
        "signal": "refused",
        "memory": "refused",
    }
    assert (node / "policy.yaml").read_text() == "text"


REWRITES = """
import os, pathlib

private = pathlib.Path({private!r})
log, study = private / "audit.jsonl", private / "study"

def tried(work):
    try:
        work()
    except OSError as error:
        return type(error).__name__
    return "done"

def replaced():
    (study / "new").write_text("x")
    os.replace(study / "new", log)

def linked():
    os.link(log, study / "link")
    (study / "link").write_text("x")

def linked_by_name():
    os.symlink(log, study / "name")
    (study / "name").write_text("x")

facts = {{
    "append": tried(lambda: log.open("a").write("x")),
    "write": tried(lambda: log.write_text("x")),
    "truncate": tried(lambda: os.truncate(log, 0)),
    "replace": tried(replaced),
    "rename": tried(lambda: log.rename(private / "tokens" / "audit")),
    "rename_beside": tried(lambda: log.rename(private / "audit.old")),
    "unlink": tried(log.unlink),
    "link": tried(linked),
    "symlink": tried(linked_by_name),
    "lock": tried((private / "audit.lock").unlink),
    "move_private": tried(lambda: private.rename(private.with_name("moved"))),
    "move_study": tried(lambda: study.rename(private / "moved")),
    "make": tried((private / "made").mkdir),
}}
"""


@pytest.mark.skipif(version() < 3, reason="this kernel's Landlock is older than Linux 6.2")
@pytest.mark.parametrize("within", ["private", "node/private"])
def test_the_app_cannot_change_the_audit_log(within: str, tmp_path: Path, received: Any) -> None:
    private = tmp_path / within
    append(private, "join", {"site": "H"})
    before = (private / "audit.jsonl").read_bytes()
    app = REPORT.replace("app = ClientApp()", REWRITES.format(private=str(private)) + "\napp = ClientApp()")
    app = app.replace("    facts = {\n", "    _ = {\n")
    facts = found(run(tmp_path, received, app, private=within))
    assert {name for name, what in facts.items() if what == "done"} == set()
    assert (private / "audit.jsonl").read_bytes() == before
    assert {path.name for path in private.iterdir()} == {
        *("audit.jsonl", "audit.lock", "lock", "scratch", "site.log", "study", "tokens"),
    }
    assert [entry.kind for entry in read_log(private)] == ["join"]


@pytest.mark.parametrize("name", ["audit.jsonl", "AUDIT.lock", "tokens", "site.log", "letter"])
def test_a_study_does_not_bear_the_name_of_the_sites_own_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    with pytest.raises(NodeError, match="that is a file of the site's own"):
        writable_places(tmp_path, name)


def test_a_grown_log_is_put_aside_unless_somebody_works(tmp_path: Path) -> None:
    log = tmp_path / "site.log"
    log.write_bytes(b"x" * LOG_BYTES)
    log.chmod(0o644)
    with only_process(tmp_path / "lock", what="works"):
        writable_places(tmp_path, "study")
    assert log.stat().st_size == LOG_BYTES
    places = writable_places(tmp_path, "study")
    assert (log.stat().st_size, (tmp_path / "site.log.1").stat().st_size) == (0, LOG_BYTES)
    assert {path.name: path.stat().st_mode & 0o777 for path in places} == {
        **dict.fromkeys(("study", "tokens", "scratch"), 0o700),
        **dict.fromkeys(("site.log", "lock"), 0o600),
    }


@pytest.mark.skipif(not seccomp.is_there(), reason="this machine takes no filter of system calls")
def test_nothing_that_the_app_starts_leaves_its_group(tmp_path: Path, received: Any) -> None:
    app = REPORT.replace(
        "    facts = {",
        "    import subprocess\n"
        "    tried = []\n"
        "    for words in ({'start_new_session': True}, {'process_group': 0}):\n"
        "        try:\n"
        "            tried.append(subprocess.Popen(['sleep', '600'], **words).pid)\n"
        "        except PermissionError:\n"
        "            pass\n"
        "    grandchild = 'import os, time\\nif not os.fork():\\n time.sleep(600)'\n"
        "    subprocess.run([sys.executable, '-c', grandchild + '\\n'])\n"
        "    facts = {'escaped': tried, 'group': os.getpgid(0),",
    )
    facts = found(run(tmp_path, received, app))
    assert facts["escaped"] == []
    end = time.monotonic() + 5
    while _group(facts["group"]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _group(facts["group"])


def _group(group: int) -> list[str]:
    """The processes of a group that run."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats.append(path.read_text())
        except OSError:
            continue
    fields = [stat.rsplit(") ", 1)[1].split() for stat in stats]
    return [each[0] for each in fields if int(each[2]) == group and each[0] not in "ZX"]


@pytest.mark.parametrize("name", ["reply.pb", "facts.json", "refused.txt"])
@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_what_the_app_leaves_is_read_as_plain_files_of_a_size(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "reply.pb").write_bytes(b"")
    (tmp_path / "key").write_bytes(b"\x00secret")
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(tmp_path / "key")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(child.MAX_REPLY + 1)
    outcome = child.outcome_of(tmp_path, 0)
    assert outcome.content is None
    told = {"large": "of more than"}.get(kind, "that is no plain file")
    assert outcome.line.startswith(f"the training process left a {name} {told}")


def test_an_app_that_writes_without_end_fills_no_disk(
    tmp_path: Path, received: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 300_000)
    app = "for number in range(200):\n    print(f'{number:06} ' + 'x' * 9_990, flush=True)\n"
    assert run(tmp_path, received, app).content is None
    state = tmp_path / "node" / "state"
    sizes = [path.stat().st_size for path in sorted(state.iterdir())]
    assert len(sizes) == 2
    assert sum(sizes) < 2 * (300_000 + (1 << 16))
    assert "000199 " in "".join(path.read_text() for path in state.iterdir())


SECRETS = """
import pathlib, socket, subprocess, sys

def tried(work):
    try:
        work()
    except PermissionError:
        return "refused"
    except OSError as error:
        return type(error).__name__
    return "done"

node, data = pathlib.Path({node!r}), pathlib.Path({data!r})
facts = {{
    "pseudonyms": tried((data / "private" / "pseudonym.key").read_bytes),
    "by_name": tried((data / "short" / "pseudonym.key").read_bytes),
    "exam": tried((data / "data_unilateral" / "exam").read_bytes),
    "linked_exam": tried((data / "linked" / "exam").read_bytes),
    "other_study": tried((node / "private" / "other" / "round-0001.pt").read_bytes),
    "audit": tried((node / "private" / "audit.jsonl").read_bytes),
    "chmod": tried(lambda: (node / "policy.yaml").chmod(0o777)),
    "udp": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "local": tried(lambda: socket.socket(socket.AF_UNIX)),
    "inherits": subprocess.run([sys.executable, "-c", "import socket; socket.socket()"]).returncode,
}}
"""


@pytest.mark.skipif(version() < 2, reason="this kernel has no Landlock")
@pytest.mark.skipif(not seccomp.is_there(), reason="this machine takes no filter of system calls")
def test_keys_within_what_the_app_reads_are_hidden(tmp_path: Path, received: Any) -> None:
    """Site folder, private folder and program in one place, the node among them: as in a checkout."""
    root = tmp_path / "root"
    node, data = root / "node", root / "A"
    files = (
        *(data / "private" / "pseudonym.key", data / "data_unilateral" / "exam", root / "elsewhere" / "exam"),
        *(
            node / "private" / "other" / "round-0001.pt",
            node / "private" / "audit.jsonl",
            node / "policy.yaml",
        ),
    )
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (node / "private").chmod(0o700)
    (data / "short").symlink_to(data / "private")
    (data / "linked").symlink_to(root / "elsewhere")
    text = SECRETS.format(node=str(node), data=str(data))
    app = REPORT.replace("app = ClientApp()", text + "\napp = ClientApp()")
    app = app.replace("    facts = {\n", "    _ = {\n")
    outcome = run(
        tmp_path, received, app, data="root/A", private="root/node/private", state="root/node/state"
    )
    assert found(outcome) == {
        "pseudonyms": "refused",
        "by_name": "refused",
        "exam": "done",
        "linked_exam": "done",
        "other_study": "refused",
        "audit": "refused",
        "chmod": "refused",
        "udp": "refused",
        "local": "refused",
        "inherits": 1,
    }


def test_only_named_variables_are_handed_on(tmp_path: Path) -> None:
    given = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "LD_PRELOAD": "x", "FLWR_HOME": "y", "TOKEN": "z"}
    handed = environment(tmp_path, 0.8, given)
    assert {key: handed[key] for key in given if key in handed} == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "2",
        "FLWR_HOME": str(tmp_path / "flower"),
    }


def test_no_variable_of_the_site_undoes_the_share_of_gpu_memory(tmp_path: Path) -> None:
    given = {
        "PYTORCH_ALLOC_CONF": "per_process_memory_fraction:1.0",
        "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync",
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    handed = environment(tmp_path, 0.5, given)
    assert {key: value for key, value in handed.items() if key.startswith("PYTORCH_")} == SHARE_OF_HALF


def test_the_share_of_gpu_memory_holds_in_what_the_app_starts(tmp_path: Path, received: Any) -> None:
    """As a training on several devices does, the app starts a process by torch."""
    app = REPORT.replace("app = ClientApp()", STARTED + "\napp = ClientApp()").replace(
        "    facts = {",
        "    from torch.multiprocessing.spawn import start_processes\n"
        "    start_processes(worker, ('worker.json',), nprocs=1, start_method='spawn')\n"
        "    facts = {'worker': json.loads(pathlib.Path('worker.json').read_text()),",
    )
    facts = found(run(tmp_path, received, app, gpu_memory_share=0.5))
    assert SHARE_OF_HALF.items() <= facts["environment"].items()
    assert facts["worker"] == SHARE_OF_HALF


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_takes_the_share_from_the_environment(tmp_path: Path) -> None:
    ask = (
        "import torch\n"
        "total = torch.cuda.mem_get_info()[1]\n"
        "torch.empty(total // 8, dtype=torch.uint8, device='cuda')\n"
        "try:\n"
        "    torch.empty(total // 3, dtype=torch.uint8, device='cuda')\n"
        "except torch.OutOfMemoryError:\n"
        "    print('limited', round(torch.cuda.get_per_process_memory_fraction(), 3))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", ask], env=environment(tmp_path, 0.25), capture_output=True, text=True
    )
    assert told.stdout == "limited 0.25\n", told.stderr


def test_what_the_app_starts_ends_with_it(tmp_path: Path, received: Any) -> None:
    app = REPORT.replace(
        "    facts = {",
        "    import subprocess\n"
        "    started = subprocess.Popen(['sleep', '600'])\n"
        "    facts = {'started': started.pid,",
    )
    pid = found(run(tmp_path, received, app))["started"]
    end = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(pid)


def test_the_process_dies_with_the_gate(tmp_path: Path, received: Any) -> None:
    """A gate that is killed leaves nothing that trains: the kernel ends the process with its parent."""
    app = REPORT.replace("    facts = {", "    import time; time.sleep(600)\n    facts = {")
    waiting = os.fork()
    if not waiting:
        with open(os.devnull, "w") as nowhere:  # the copy of pytest must not write
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        run(tmp_path, received, app)
        os._exit(0)
    pid = _wait_for_child(waiting)
    os.kill(waiting, signal.SIGKILL)
    os.waitpid(waiting, 0)
    end = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(pid)


def test_a_line_from_outside_ends_the_process(tmp_path: Path, received: Any) -> None:
    app = REPORT.replace("    facts = {", "    import time; time.sleep(600)\n    facts = {")
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    outcome = run(tmp_path, received, app, lambda: "enough" if stop.is_set() else None)
    assert (outcome.content, outcome.line) == (None, "enough")


def test_the_apps_words_stay_in_the_sites_log(tmp_path: Path, received: Any) -> None:
    outcome = run(tmp_path, received, "print('PAT4711')\nraise ValueError('Karzinom')\n")
    assert outcome.content is None
    assert outcome.line == "the training process ended with exit code 1; its own log says more"
    log = (tmp_path / "node" / "state" / "app.log").read_text()
    assert "PAT4711" in log
    assert "Karzinom" in log


def test_seconds_left_are_those_until_the_messages_deadline(received: Any) -> None:
    came = received(b"", ttl=REPLY_SPARE_S + 100.0)
    assert 99 < seconds_left(came) <= 100
    came.message.metadata.created_at -= 90
    assert 9 < seconds_left(came) <= 10
    came.message.metadata.created_at += 5000  # a server's clock that is ahead gives no more time
    assert seconds_left(came) == 100


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _is_nice(folder: Path) -> bool:
    """Whether the process is past the call that ties it to its parent: being nice comes later."""
    return int((folder / "stat").read_text().rsplit(")", 1)[1].split()[16]) >= Quotas().nice


def _wait_for_child(parent: int) -> int:
    """The app's process once it is set up: then it has its parent's death signal."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
                is_child = f"PPid:\t{parent}\n" in (folder / "status").read_text()
            except OSError:
                continue
            if is_child and b"app_process.py" in line and _is_nice(folder):
                return int(folder.name)
        time.sleep(0.05)
    raise AssertionError("the app's process did not start")
