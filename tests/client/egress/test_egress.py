"""What passes is in the log first; what was sent is counted there, whoever counts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common.serde import recorddict_to_proto

import client.audit
from client.audit import AUDIT_FILE, AuditError, append, read_log
from client.egress.egress import Egress
from client.egress.policy import default_policy, write_policy
from client.egress.records import read_reply
from client.egress.rules import Leaving
from configs.load import load_settings, settings_hash


def test_an_entry_tells_all_that_left(door: Any, update: Any) -> None:
    weights = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)
    content = update({"fusion.w": weights})
    door.check(content, round=2, overrides='["seed=1"]', bundle="cd" * 32)
    [entry] = read_log(door.private)
    assert entry.kind == "sent"
    num_bytes = read_reply(content).num_bytes
    digest = hashlib.sha256(content["arrays"]["fusion.w"].data).hexdigest()
    assert entry.fields == {
        "study": "study",
        "run": "7",
        "round": 2,
        "message": "train",
        "preset": "debug",
        "coordinator": "ab" * 32,
        "behind": {"num-exams": 32, "num-tokens": 384, "num-batch-tokens": 384, "num-steps": 2},
        "overrides": '["seed=1"]',
        "settings": settings_hash(load_settings("debug", ["seed=1"])),
        "bundle": "cd" * 32,
        "own_line": False,
        "withheld": 0,
        "update": True,
        "bytes": num_bytes,
        "run_bytes": num_bytes,
        "wanted_bytes": num_bytes,
        "tensors": [{"name": "fusion.w", "shape": [2, 2], "dtype": "float32", "norm": 5.0, "sha256": digest}],
        "num_tensors": 1,
        "numbers": {"num-examples": 40, "loss": 1.5},
        "words": {},
    }


def test_words_that_left_are_in_the_log(door: Any, greeting: Any) -> None:
    door.check(greeting(), message="query.hello", round=0, behind=None)
    [entry] = read_log(door.private)
    assert entry.fields["words"] == {"site": "Klinik", "notices": ["2 exams lack a sequence"]}
    assert (entry.fields["behind"], entry.fields["update"]) == ({}, False)


def test_a_refusals_entry_tells_rule_line_and_the_bytes_that_left(door: Any, update: Any) -> None:
    left = door.check(update(), study="other")
    [entry] = read_log(door.private)
    assert entry.kind == "refused"
    assert entry.fields["line"] == left["refused"]["refused"]
    assert (entry.fields["rule"], entry.fields["detail"]) == ("studies", "other")
    assert entry.fields["bytes"] == read_reply(left).num_bytes < entry.fields["wanted_bytes"]  # type: ignore[operator]


def test_what_a_peer_names_stays_short_and_plain_in_the_log(door: Any, update: Any) -> None:
    door.check(update({f"n{number}": np.ones(1, np.float32) for number in range(1500)}), study="\n" * 500)
    [entry] = read_log(door.private)
    assert entry.fields["num_tensors"] == 1500
    assert len(entry.fields["tensors"]) == 1000  # type: ignore[arg-type]
    assert len(str(entry.fields["study"])) == 100


def test_updates_of_a_day_are_counted_across_restarts(
    door: Any, update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = client.audit.time.time()
    for hour in (0, 1, 2):
        monkeypatch.setattr("client.audit.time.time", lambda hour=hour: now + 3600 * hour)
        assert door.passes(update(), run_id=hour)  # each call is a new Egress
    assert (
        door.line(update(), run_id=9) == "site 'Klinik': its policy lets at most 3 updates leave in 24 hours"
    )
    monkeypatch.setattr("client.audit.time.time", lambda: now + 86_399)
    assert "3 updates" in door.line(update())
    monkeypatch.setattr("client.audit.time.time", lambda: now + 86_401)
    assert door.passes(update())
    assert "3 updates" in door.line(update())


def test_neither_first_exchanges_nor_refusals_count_as_updates(door: Any, update: Any, greeting: Any) -> None:
    for _ in range(5):
        assert door.passes(greeting(), message="query.hello", behind=None)
        door.line(update(), study="other")
    assert door.passes(update())


def test_no_update_a_day_lets_none_leave(door: Any, update: Any, greeting: Any) -> None:
    closed = door.having(rounds_per_day=0)
    assert "at most 0 updates" in closed.line(update())
    assert closed.passes(greeting(), message="query.hello", behind=None)


def test_bytes_of_a_run_count_its_refusals_and_no_other_run(door: Any, update: Any) -> None:
    size = read_reply(update()).num_bytes
    refused = read_reply(door.check(update(), study="other")).num_bytes
    limit = refused + 2 * size
    tight = door.having(bytes_per_run=limit, rounds_per_day=99)
    assert tight.passes(update())
    assert tight.passes(update(), run_id=77)
    assert tight.passes(update())
    assert tight.line(update()) == f"site 'Klinik': its policy lets at most {limit} bytes leave in a run"
    assert tight.passes(update(), run_id=77)


def test_other_entries_of_the_log_are_passed_over(door: Any, update: Any) -> None:
    append(door.private, "forget-begun", {"run": "7", "run_bytes": 10**9, "message": "train"})
    assert door.passes(update())


def test_a_faulty_policy_stops_everything_until_it_is_mended(door: Any, update: Any, tmp_path: Path) -> None:
    door.policy = tmp_path / "policy.yaml"
    told = "site 'Klinik': its policy cannot be read; its own log says more"
    assert door.line(update()) == told
    write_policy(door.policy, default_policy(["ab" * 32]))
    assert door.passes(update(loss=1.0))
    door.policy.write_text(door.policy.read_text("utf-8") + "more: 1\n")
    assert door.line(update()) == told
    entries = read_log(door.private)
    assert [entry.kind for entry in entries] == ["refused", "sent", "refused"]
    assert entries[0].fields["rule"] == "policy"
    assert "there is no key 'more'" in str(entries[2].fields["detail"])


def test_the_file_is_read_anew_for_each_message(door: Any, update: Any, tmp_path: Path) -> None:
    door.policy = tmp_path / "policy.yaml"
    write_policy(door.policy, default_policy(["ab" * 32]))
    egress = Egress(door.private, door.policy, "Klinik")
    asked = Leaving(message="query", study="s", preset="debug", coordinator="ab" * 32, run_id=1, agreed={})
    refused = [egress.check(asked, update())]
    write_policy(door.policy, default_policy([]))
    refused.append(egress.check(asked, update()))
    lines = [str(each["refused"]["refused"]) for each in refused]
    assert "no message of this kind" in lines[0]
    assert "does not name this coordinator" in lines[1]


@pytest.mark.parametrize("how", ["folder", "disk", "changed"])
def test_without_a_log_nothing_leaves_not_even_a_refusal(
    door: Any, update: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.passes(update())
    path = door.private / AUDIT_FILE
    before = path.read_bytes()
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "disk":
        write = os.write
        monkeypatch.setattr("client.audit.os.write", lambda file, content: _full(write, file, content))
    else:
        path.write_bytes(before.replace(b"study", b"sturz", 1))
    for changed in ({}, {"study": "other"}):
        with pytest.raises(AuditError):
            door.check(update(), **changed)
    if how == "disk":
        monkeypatch.undo()
        assert door.passes(update())
        kinds = [entry.kind for entry in read_log(door.private)]
        assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("sent", "sent", {"cut-short"})


def _full(write: Any, file: int, content: bytes) -> int:
    """A disk that takes a part of an entry and then says that it is full."""
    if len(content) > 100:
        return write(file, content[:100])
    raise OSError(28, "No space left on device")


SEND_MANY = """
import sys
from pathlib import Path
from flwr.app import MetricRecord, RecordDict
from client.egress.egress import Egress
from client.egress.rules import Leaving
behind = {"num-exams": 32, "num-tokens": 384, "num-batch-tokens": 384, "num-steps": 2}
content = RecordDict({"metrics": MetricRecord({"loss": 1.5})})
egress = Egress(Path(sys.argv[1]), Path(sys.argv[2]), "Klinik")
given = {"study": "study", "preset": "debug", "coordinator": "ab" * 32, "behind": behind, "agreed": {}}
asked = Leaving(message="train", run_id=7, round=1, **given)
print(sum(egress.check(asked, content) is content for _ in range(6)))
"""


def test_two_processes_do_not_send_more_together_than_one_may(door: Any, tmp_path: Path) -> None:
    write_policy(tmp_path / "policy.yaml", replace(door.policy, rounds_per_day=7))
    command = [sys.executable, "-c", SEND_MANY, str(door.private), str(tmp_path / "policy.yaml")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert sum(int(worker.communicate(timeout=120)[0]) for worker in workers) == 7
    entries = read_log(door.private)
    assert [entry.kind for entry in entries].count("sent") == 7
    assert len(entries) == 12


def test_what_left_is_what_was_read(door: Any, update: Any) -> None:
    content = update()
    before = recorddict_to_proto(content).SerializeToString()
    assert recorddict_to_proto(door.check(content)).SerializeToString() == before
