"""The gate: which messages are worked on, by which code, and what leaves."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict

from client.audit import read_log
from client.egress.policy import default_policy, write_policy
from client.node.bundle import Approvals, bundle_digest, files_of_fab
from client.node.child import Outcome
from client.node.pause import pause, resume
from client.node.runtime import Received
from climb_model.clock import REPLY_SPARE_S
from climb_model.lock import only_process
from configs.load import load_settings, settings_hash

SPY = """
import pathlib
pathlib.Path({marker!r}).write_text("it ran")
from flwr.clientapp import ClientApp
app = ClientApp()
"""

DIES = """
import {what}
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(message, context):
    {does}
"""


def test_code_that_nobody_approved_is_neither_imported_nor_unpacked(
    node: Any, received: Any, small_bundle: Any, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    bundle = small_bundle(SPY.format(marker=str(marker)), **{"sitecustomize.py": "import client.app"})
    line = node.refused(received(bundle))
    digest = bundle_digest(files_of_fab(bundle))
    assert line.startswith("site 'H': runs version 0.1.0, the study's program is of version 9.9.9: ")
    assert digest[:12] in line
    assert not marker.exists()
    assert [one.digest for one in Approvals(node.paths.bundles).waiting()] == [digest]
    assert not [path for path in node.paths.state.rglob("*.py")]


def test_an_approved_bundle_runs_and_its_update_leaves_whole(
    node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle()
    digest = node.approve(bundle)
    came = received(bundle)
    content = node.ask(came)
    assert content["arrays"] == came.message.content["arrays"]
    assert set(content) == {"arrays", "metrics"}
    Approvals(node.paths.bundles).withdraw(digest)
    assert digest[:12] in node.refused(received(bundle))
    assert not list(node.paths.work.iterdir())


def test_the_log_says_which_code_and_settings_an_update_comes_from(
    node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle()
    digest = node.approve(bundle)
    came = received(bundle)
    came.context.run_config["overrides"] = '["training.warmup_steps=9"]'
    node.ask(came)
    refused, sent = (entry.fields for entry in read_log(node.settings.private))
    assert (refused["bundle"], refused["own_line"]) == ("", True)
    assert (sent["bundle"], sent["own_line"]) == (digest, False)
    assert sent["overrides"] == '["training.warmup_steps=9"]'
    assert sent["settings"] == settings_hash(load_settings("debug", ["training.warmup_steps=9"]))
    assert json.loads(node.paths.audit_end.read_text())["number"] == 2


TALKS = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    words = ConfigRecord({"site": "H", "refused": "site 'H': Frau Meier, 12.3.1960, Karzinom rechts"})
    return Message(RecordDict({"refused": words}), reply_to=message)
"""


def test_a_refusal_in_a_programs_own_words_is_withheld_and_one_in_the_sites_is_not(
    node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle(TALKS)
    node.approve(bundle)
    assert node.refused(received(bundle)) == "site 'H': refused; its own log says more"
    pause(node.paths.paused, "Umbau bis Montag", now=False)
    assert node.refused(received(bundle)) == "site 'H': is paused by its admin: Umbau bis Montag"
    told = [entry.fields for entry in read_log(node.settings.private)]
    assert [(fields["withheld"], fields["own_line"]) for fields in told] == [(0, True), (1, False), (0, True)]


def test_what_runs_is_the_approved_bundle_not_one_like_it(
    node: Any, received: Any, small_bundle: Any, tmp_path: Path
) -> None:
    node.approve(small_bundle())
    marker = tmp_path / "marker"
    node.refused(received(small_bundle(SPY.format(marker=str(marker)))))
    node.refused(received(small_bundle(**{"client/more.py": ""})))
    assert not marker.exists()


def test_an_approved_bundle_cannot_send_what_the_policy_forbids(
    node: Any, received: Any, small_bundle: Any
) -> None:
    greedy = small_bundle(
        "import numpy as np\nfrom flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict\n"
        "from flwr.clientapp import ClientApp\napp = ClientApp()\n@app.train()\n"
        "def train(message, context):\n"
        "    arrays = ArrayRecord({'report_generator.geheim': Array(np.ones(3, np.float32))})\n"
        "    return Message(RecordDict({'arrays': arrays}), reply_to=message)\n"
    )
    node.approve(greedy)
    line = node.refused(received(greedy))
    assert "its policy does not let" in line
    assert "geheim" not in line


def test_code_from_elsewhere_is_noticed(node: Any, received: Any, small_bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").touch()
    other = small_bundle(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport server\napp = None\n")
    node.approve(other)
    assert "is not the one that was approved" in node.refused(received(other))


@pytest.mark.parametrize(
    ("what", "does", "told"),
    [
        ("os", "os.kill(os.getpid(), 9)", "ended by signal 9 (out of memory?); its own log says more"),
        ("os", "os._exit(7)", "ended with exit code 7; its own log says more"),
        ("os", "raise ValueError('PAT4711 Karzinom')", "ended with exit code 1; its own log says more"),
    ],
)
def test_the_death_of_the_app_is_told_at_once_and_without_its_words(
    what: str, does: str, told: str, node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle(DIES.format(what=what, does=does))
    node.approve(bundle)
    begin = time.monotonic()
    assert node.refused(received(bundle)) == f"site 'H': the training process {told}"
    assert time.monotonic() - begin < 20
    if "PAT4711" in does:
        assert "PAT4711" in (node.paths.state / "app.log").read_text()


def test_an_app_that_outlives_its_message_is_ended(node: Any, received: Any, small_bundle: Any) -> None:
    bundle = small_bundle(DIES.format(what="time", does="time.sleep(600)"))
    node.approve(bundle)
    assert "before its deadline" in node.refused(received(bundle, ttl=REPLY_SPARE_S + 1.5))


def test_a_stopped_gate_ends_the_app_and_says_so(node: Any, received: Any, small_bundle: Any) -> None:
    bundle = small_bundle(DIES.format(what="time", does="time.sleep(600)"))
    node.approve(bundle)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert node.refused(received(bundle), stop) == "site 'H': was stopped by its admin"


def run_as(node: Any, run: Callable[..., Outcome], own_bundle: bytes) -> bytes:
    """Let a function stand for the app's process; returns a bundle that is the image's own."""
    node.gate._run = run
    node.gate._own = files_of_fab(own_bundle)
    return own_bundle


def test_this_images_own_bundle_needs_no_approval(node: Any, received: Any, small_bundle: Any) -> None:
    roots: list[Path] = []

    def run(*given: Any) -> Outcome:
        roots.append(given[2])
        return Outcome(RecordDict(), None)

    bundle = run_as(node, run, small_bundle())
    node.ask(received(bundle, "query.hello"))
    assert [(root / "client" / "node" / "gate.py").is_file() for root in roots] == [True]


def test_a_paused_site_refuses_with_the_admins_reason(node: Any, received: Any, small_bundle: Any) -> None:
    bundle = run_as(node, lambda *_: Outcome(RecordDict(), None), small_bundle())
    pause(node.paths.paused, "GPU in maintenance", now=False)
    told = "site 'H': is paused by its admin: GPU in maintenance"
    assert node.refused(received(bundle, "query.hello")) == told
    node.paths.paused.write_text("made by hand")
    assert node.refused(received(bundle, "query.hello")) == "site 'H': is paused by its admin"
    assert resume(node.paths.paused)
    assert "refused" not in node.ask(received(bundle, "query.hello"))


def test_a_pause_now_ends_the_training(node: Any, received: Any, small_bundle: Any) -> None:
    def run(*given: Any) -> Outcome:
        ended = given[-1]
        assert ended() is None
        pause(node.paths.paused, "", now=False)
        assert ended() is None
        pause(node.paths.paused, "", now=True)
        return Outcome(None, line=ended())

    bundle = run_as(node, run, small_bundle())
    assert node.refused(received(bundle)) == "site 'H': is paused by its admin"


def test_no_exceptions_text_leaves(node: Any, received: Any, small_bundle: Any) -> None:
    def run(*_: Any) -> Outcome:
        raise ValueError("PAT4711 Karzinom")

    bundle = run_as(node, run, small_bundle())
    line = node.refused(received(bundle))
    assert line == "site 'H': failed with ValueError; its own log says more"
    assert any("PAT4711" in entry for entry in node.log)


@pytest.mark.parametrize(("kind", "preset"), [("evaluate", "debug"), ("train", "climb-code")])
def test_what_can_only_be_refused_starts_nothing(
    kind: str, preset: str, node: Any, received: Any, small_bundle: Any
) -> None:
    def run(*_: Any) -> Outcome:
        raise AssertionError("it ran")

    bundle = run_as(node, run, small_bundle())
    line = node.refused(received(bundle, kind, preset=preset))
    assert "policy" in line
    assert not any("it ran" in entry for entry in node.log)


def test_a_site_that_may_send_no_more_updates_today_does_not_train(
    node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle()
    node.approve(bundle)
    text = node.paths.policy.read_text()
    assert "rounds_per_day: 100" in text
    node.paths.policy.write_text(text.replace("rounds_per_day: 100", "rounds_per_day: 0"))
    node.gate._run = lambda *_: pytest.fail("it ran")
    assert "at most 0 updates leave in 24 hours" in node.refused(received(bundle))


def test_a_coordinator_that_the_policy_does_not_name_gets_nothing(
    node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = run_as(node, lambda *_: pytest.fail("it ran"), small_bundle())
    write_policy(node.paths.policy, default_policy(("cd" * 32,)))
    assert "does not name this coordinator" in node.refused(received(bundle))


def test_every_answer_is_in_the_audit_log_before_it_leaves(
    node: Any, received: Any, small_bundle: Any
) -> None:
    node.refused(received(small_bundle()))
    node.refused(received(b"no bundle"))
    kinds = [entry.fields["message"] for entry in read_log(node.settings.private)]
    assert kinds == ["train", "train"]


def test_without_the_audit_log_nothing_is_answered(node: Any, received: Any, small_bundle: Any) -> None:
    node.refused(received(small_bundle()))
    log = node.settings.private / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"train", b"tra1n"))
    with pytest.raises(Exception, match="changed"):
        node.refused(received(small_bundle()))
    task_stop = threading.Event()
    threading.Timer(0.5, task_stop.set).start()
    node.gate.run_until(task_stop)  # and goes on


def test_a_message_that_tells_of_an_error_is_answered_and_noted(
    node: Any, received: Any, small_bundle: Any
) -> None:
    came = received(small_bundle())
    error = Message(Error(code=0, reason="PAT4711"), reply_to=came.message)
    error.metadata.__dict__["_message_id"] = "message-1"
    line = node.refused(Received(error, came.context, came.bundle))
    assert line == "site 'H': works on messages, and got one that tells of an error"
    [entry] = read_log(node.settings.private)
    assert entry.fields["message"] == "train"


@pytest.mark.parametrize("ttl", [math.nan, math.inf, -math.inf])
def test_a_message_without_an_end_is_not_worked_on(
    ttl: float, node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle(DIES.format(what="time", does="time.sleep(600)"))
    node.approve(bundle)
    came = received(bundle)
    came.message.metadata.__dict__["_ttl"] = ttl
    assert "before its deadline" in node.refused(came)


def test_a_program_that_changed_on_the_disk_does_not_run(
    node: Any, received: Any, small_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(*_: Any) -> Outcome:
        ran.append("it ran")
        monkeypatch.setattr("client.node.gate.program_digest", lambda: "changed")
        return Outcome(RecordDict(), None)

    bundle = run_as(node, run, small_bundle())
    told = "site 'H': has another program on its disk than when its node was started: restart the node"
    assert node.refused(received(bundle, "query.hello")) == told
    assert node.refused(received(bundle, "query.hello")) == told
    assert ran == ["it ran"]


def test_a_lost_message_is_not_answered(node: Any, received: Any, small_bundle: Any) -> None:
    bundle = small_bundle()

    def run(*given: Any) -> Outcome:
        task.lost.set()
        return Outcome(None, line=str(given[-1]()))

    run_as(node, run, bundle)
    task = node.task(received(bundle))
    assert node.gate.work_once(threading.Event())
    assert task.replies == []


def test_a_peers_names_are_not_written_down(node: Any, received: Any, small_bundle: Any) -> None:
    came = received(small_bundle(), preset="../../x\n" + "y" * 100)
    came.context.run_config["study"] = "a\nb"
    node.refused(came)
    [entry] = read_log(node.settings.private)
    assert (entry.fields["study"], entry.fields["preset"]) == ("", "")


def test_what_a_killed_gate_left_is_removed(make_node: Callable[..., Any], tmp_path: Path) -> None:
    left = tmp_path / "node" / "state" / "work" / "old" / "app"
    left.mkdir(parents=True)
    (left / "a.py").touch()
    left.chmod(0o555)
    node = make_node()
    assert not list(node.paths.work.iterdir())


def test_two_gates_on_one_node_are_refused(node: Any) -> None:
    from climb_model.lock import LockedError, is_held

    assert not is_held(node.paths.lock)
    with only_process(node.paths.lock, what="runs the node"):
        assert is_held(node.paths.lock)
        with (
            pytest.raises(LockedError, match="runs the node"),
            only_process(node.paths.lock, what="runs the node"),
        ):
            pass
    assert not is_held(node.paths.lock)
