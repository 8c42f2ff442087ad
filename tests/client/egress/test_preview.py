"""`climb-site preview` and `audit log`, on a site whose files carry words that must never leave it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import message_to_proto

from client.audit import AUDIT_FILE, AuditError, append, read_log
from client.cli import main
from client.egress.egress import Egress, agreed_shapes
from client.egress.policy import Minimum, default_policy, read_policy, write_policy
from client.egress.preview import last_message
from client.egress.rules import Leaving
from client.node.settings import NodePaths, NodeSettings, write_node
from climb_model.kit import certificate_sha256
from climb_model.run_config import to_run_config
from configs.load import load_settings

MARKERS = ("Geheimwort", "PAT4711", "Krankenhausordner", "Privatordner", "_left", "Karzinom")
SETTINGS = (
    "training.num_threads=1",
    "evaluation.findings=[Zyste, Karzinom]",
    "evaluation.max_unknown_share=0.9",
)
PEM = "-----BEGIN CERTIFICATE-----\nAAECAw==\n-----END CERTIFICATE-----\n"
FEW = Minimum(exams=4, tokens=10, batch_tokens=4, steps=1)


@pytest.fixture
def node(hospital: Any, tmp_path: Path) -> Path:
    """A node's folder of the hospital, whose policy takes 4 exams and one step."""
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "ca.crt").write_text(PEM)
    settings = NodeSettings(
        name="H", server="localhost:8443", data=hospital.folder, private=hospital.private, devices="cpu"
    )
    write_node(folder, settings)
    write_policy(folder / "policy.yaml", replace(default_policy([certificate_sha256(PEM)]), minimum=FEW))
    return folder


@pytest.fixture
def previewed(node: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*more: str) -> tuple[int, str]:
        code = main(["preview", "--node", str(node), *more, *SETTINGS])
        return code, capsys.readouterr().out

    return run


def through(hospital: Any, node: Path, reply: Any, kind: str, **behind: int) -> Any:
    """A reply of the site's app as it leaves through the node's policy."""
    egress = Egress(hospital.private, node / "policy.yaml", "H")
    agreed = agreed_shapes(reply.content)
    reply.content = egress.check(replace(asked(kind), behind=behind, agreed=agreed), reply.content)
    return reply


def asked(message: str) -> Leaving:
    """A message of the node's coordinator."""
    return Leaving(
        message=message,
        study="study",
        preset="debug",
        coordinator=certificate_sha256(PEM),
        run_id=1,
        round=1,
    )


def test_a_preview_is_what_then_leaves(hospital: Any, node: Path, previewed: Any) -> None:
    code, out = previewed("--preset", "debug", "--json")
    assert code == 0
    hello, train = map(json.loads, out.splitlines())
    assert not hospital.private.joinpath(AUDIT_FILE).exists()
    assert not list(hospital.private.glob("*/round-*.pt"))  # nothing was trained
    greeted = hospital.ask("query.hello").content
    assert hello["words"] == dict(greeted["hello"])
    assert set(hello["numbers"]) == set(greeted["metrics"])
    reply = hospital.train()
    sent = reply.content
    assert [(each["name"], tuple(each["shape"]), each["dtype"]) for each in train["tensors"]] == [
        (name, tuple(array.shape), array.dtype) for name, array in sent["arrays"].items()
    ]
    assert train["numbers"] == {"num-examples": 6, "num-steps": 2, "loss": None, "seconds": None}
    assert sent["metrics"]["num-steps"] == 2
    assert train["behind"]["num-exams"] == 4  # the first of two steps begins the warm-up: next to nothing
    assert train["behind"]["num-steps"] == 1
    through(hospital, node, reply, "train", **train["behind"])
    assert reply.content is sent
    [entry] = read_log(hospital.private)
    assert entry.fields["bytes"] == train["bytes"]


def test_a_preview_says_which_rule_stops_a_message(node: Path, previewed: Any) -> None:
    policy = read_policy(node / "policy.yaml")
    write_policy(node / "policy.yaml", replace(policy, minimum=Minimum()))
    code, out = previewed("--preset", "debug")
    assert code == 1
    assert "policy: may leave" in out
    assert "policy: STAYS, by rule minimum.exams: it wants at least 32 exams behind an update (4)" in out
    (node / "policy.yaml").unlink()
    code, out = previewed("--preset", "debug")
    assert code == 1
    assert out.count("policy: STAYS, by rule policy: it cannot be read") == 2


def test_a_preview_shows_the_sites_own_refusal(hospital: Any, previewed: Any) -> None:
    (hospital.folder / "metadata_unilateral" / "split.csv").unlink()
    code, out = previewed("--preset", "debug")
    assert code == 1
    assert "training reply" not in out
    assert "refused" in out


def test_a_preview_of_a_preset_without_its_weights_says_so(
    node: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    assert main(["preview", "--node", str(node), "--preset", "climb"]) == 1
    assert capsys.readouterr().err == (
        "climb-site: preset climb: weights of 'facebook/dinov2-small' and 'GerMedBERT/medbert-512' are "
        "missing: the node has no weights folder; weights of site.yaml names the folder of model folders\n"
    )


def test_the_exact_tensors_of_a_preview_fit_the_file(node: Path, previewed: Any) -> None:
    code, out = previewed("--preset", "debug", "--tensors")
    path = node / "policy.yaml"
    text = path.read_text("utf-8")
    begin, end = text.index("tensors:\n"), text.index("\n\n# Types of numbers")
    path.write_text(text[:begin] + out.rstrip() + text[end:], "utf-8")
    assert None not in read_policy(path).tensors.values()
    code, _ = previewed("--preset", "debug")
    assert code == 0


def test_a_preview_without_a_preset_is_that_of_the_last_message(
    hospital: Any, node: Path, previewed: Any
) -> None:
    assert previewed("--json")[0] == 2
    through(hospital, node, hospital.ask("query.hello"), "query.hello")
    code, out = previewed("--json", "--study", "study")
    assert code == 0
    assert json.loads(out.splitlines()[1])["round"] == 2
    assert previewed("--study", "unknown")[0] == 2


def note_message(hospital: Any, node: Path, overrides: str) -> None:
    """Let a message with these overrides be answered, so that the log holds them."""
    egress = Egress(hospital.private, node / "policy.yaml", "H")
    told = RecordDict({"refused": ConfigRecord({"site": "H"})})
    egress.check(replace(asked("query.hello"), overrides=overrides), told)


def test_a_bare_preview_takes_the_overrides_of_the_last_message(
    hospital: Any, node: Path, command: Any
) -> None:
    given = (*SETTINGS, "federation.payload=float16", "training.steps_per_round=3", "model.fusion.depth=3")
    note_message(hospital, node, to_run_config(load_settings("debug", given), "study", "0" * 16)["overrides"])

    def shown(*more: str) -> tuple[list[Any], set[str], int]:
        _, out, _ = command(main, "preview", "--node", node, "--study", "study", "--json", *more)
        train = json.loads(out.splitlines()[1])
        tensors = [(each["name"], each["shape"]) for each in train["tensors"]]
        return tensors, {each["dtype"] for each in train["tensors"]}, train["numbers"]["num-steps"]

    tensors, *rest = shown()
    assert rest == [{"float16"}, 3]
    assert (tensors, *rest) == shown("--preset", "debug", *given)
    assert shown("federation.payload=float32", "training.steps_per_round=1") == (tensors, {"float32"}, 1)
    plain, *rest = shown("--preset", "debug", *SETTINGS)
    assert rest == [{"float32"}, 2]
    assert len(plain) < len(tensors)


@pytest.mark.parametrize("text", ["a=1", "b=Brüste", "c='x'", 'd=["Zyste\\n"]', "e=\U0001f4a1"])
@pytest.mark.parametrize("plain", [True, False])
def test_overrides_are_read_from_the_log_as_they_came(
    text: str, plain: bool, hospital: Any, node: Path
) -> None:
    note_message(hospital, node, json.dumps([text, "z=2"], ensure_ascii=plain))
    last = last_message(hospital.private)
    assert last is not None
    assert last.overrides == (text, "z=2")


@pytest.mark.parametrize(
    "overrides", [json.dumps([f"evaluation.findings=[{'Zyste, ' * 600}Karzinom]"]), "{}", "rubbish"]
)
def test_overrides_that_the_log_does_not_hold_whole_are_not_guessed(
    overrides: str, hospital: Any, node: Path, command: Any
) -> None:
    note_message(hospital, node, overrides)
    words = ("preview", "--node", node, "--tensors")
    assert command(main, *words) == (
        2,
        "",
        "climb-site: preview needs --preset NAME and its overrides: the audit log does not hold those of the "
        "last message whole\n",
    )
    assert command(main, *words, "--preset", "debug")[0] == 0


def test_a_preview_without_the_authority_s_certificate_is_one_line(node: Path, command: Any) -> None:
    (node / "ca.crt").unlink()
    assert command(main, "preview", "--node", node, "--preset", "debug") == (
        1,
        "",
        f"climb-site: {node / 'ca.crt'}: No such file or directory\n",
    )


CALLED = """
import socket, sys

def call(*words, **_):
    print("called", words, file=sys.stderr)
    raise socket.gaierror(-2, "no network")

socket.getaddrinfo = socket.socket.connect = call
from client.cli import main

assert not {"flwr", "huggingface_hub", "transformers"} & set(sys.modules), "too late"
sys.exit(main(["preview", "--node", sys.argv[1], "--preset", "climb"]))
"""


@pytest.mark.parametrize("begun", [False, True])
def test_a_preview_asks_no_hub_for_weights(begun: bool, node: Path, tmp_path: Path, checkout: Path) -> None:
    """With a cache that holds nothing, and with one that holds a part of what is needed."""
    for name in ("facebook--dinov2-small", "GerMedBERT--medbert-512") if begun else ():
        folder = tmp_path / "hub" / "hub" / f"models--{name}"
        for path, text in {"refs/main": "abc", "snapshots/abc/config.json": "{}"}.items():
            (folder / path).parent.mkdir(parents=True)
            (folder / path).write_text(text)
    unset = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
    known = {key: os.environ[key] for key in os.environ if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", CALLED, str(node)],
        cwd=checkout,
        env=known | {"HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "called" not in done.stderr
    if begun:
        assert "weights of 'facebook/dinov2-small' cannot be loaded" in done.stdout
    else:
        assert done.stderr == (
            "climb-site: preset climb: weights of 'facebook/dinov2-small' and 'GerMedBERT/medbert-512' are "
            "not in the hub's cache on this machine; weights of site.yaml names the folder of model folders\n"
        )


def test_no_marker_of_the_sites_files_is_in_any_byte_that_leaves(
    hospital: Any, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIMB_TEST_SECRET", "Geheimwort")
    facts = {"num-exams": 6, "num-tokens": 60, "num-batch-tokens": 20, "num-steps": 2}
    left = [
        through(hospital, node, hospital.ask("query.hello"), "query.hello"),
        through(hospital, node, hospital.train(), "train", **facts),
        through(hospital, node, hospital.train(), "train"),
    ]

    def explode(*_: object, **__: object) -> None:
        raise KeyError("Geheimwort in /Krankenhausordner/PAT4711_left: Karzinom")

    with monkeypatch.context() as patched:
        patched.setattr("client.app.train_on", explode)
        left.append(through(hospital, node, hospital.train(), "train", **facts))
    (hospital.private / "study" / "round-0001.pt").write_bytes(b"rubbish")
    left.append(through(hospital, node, hospital.train(round=2), "train", **facts))
    (hospital.folder / "metadata_unilateral" / "split.csv").unlink()
    left.append(through(hospital, node, hospital.ask("query.hello"), "query.hello"))
    kinds = [tuple(sorted(reply.content)) for reply in left]
    assert kinds == [("hello", "metrics"), ("arrays", "metrics"), *[("refused",)] * 4]
    log = (hospital.private / AUDIT_FILE).read_bytes()
    assert len(log.splitlines()) == len(left)
    for content in (*(message_to_proto(reply).SerializeToString() for reply in left), log):
        assert not [marker for marker in MARKERS if marker.encode() in content]


@pytest.fixture
def logged(hospital: Any, node: Path) -> Path:
    """The private folder of a site with four entries in its log."""
    reply = hospital.ask("query.hello")
    for _ in range(4):
        through(hospital, node, reply, "query.hello")
    return hospital.private


def audit(*arguments: str) -> int:
    return main(["audit", "log", *arguments])


def test_the_audit_log_is_shown_with_the_digest_to_note(
    logged: Path, node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit("--node", str(node)) == 0
    out = capsys.readouterr().out
    digest = read_log(logged)[-1].digest
    assert "4 entries, each as it was written" in out
    assert f"digest of the last: {digest}" in out
    assert audit("--private", str(logged), "--last", "2", "--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["number"] for entry in shown] == [3, 4]
    assert shown[1]["digest"] == digest
    assert shown[1]["fields"]["words"]["site"] == "H"


def test_the_fingerprints_of_the_join_are_shown_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"SHA256:{'k' * 43}"
    append(
        tmp_path, "join", {"site": "H", "server": "server.example:8443", "ca_sha256": "c" * 64, "key": key}
    )
    assert audit("--private", str(tmp_path)) == 0
    shown = "".join(line[-80:].strip() for line in capsys.readouterr().out.splitlines()[:4])
    assert key in shown
    assert "c" * 64 in shown


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([0, 2, 3], "line 2 holds entry 3"),
        ([1, 0, 2, 3], "line 1 holds entry 2"),
        ([0, 1, 1, 2, 3], "line 3 holds entry 2"),
    ],
)
def test_lines_removed_moved_or_doubled_are_found(
    logged: Path, capsys: pytest.CaptureFixture[str], order: list[int], told: str
) -> None:
    path = logged / AUDIT_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    assert audit("--private", str(logged)) == 1
    assert told in capsys.readouterr().err


def test_a_changed_line_is_found(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = logged / AUDIT_FILE
    path.write_bytes(path.read_bytes().replace(b'"sent"', b'"kept"', 1))
    assert audit("--private", str(logged)) == 1
    assert "line 1 was changed or damaged" in capsys.readouterr().err


def test_a_cut_off_end_is_found_by_a_digest_noted_before(
    logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, noted = logged / AUDIT_FILE, read_log(logged)[-1].digest
    assert audit("--private", str(logged), "--expect", noted[:16].upper()) == 0
    assert "entry 4 is the one expected" in capsys.readouterr().out
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert audit("--private", str(logged)) == 0
    assert audit("--private", str(logged), "--expect", noted) == 1
    assert "its end was cut off, or it was written anew" in capsys.readouterr().err


def test_wrong_usage_is_one_line(logged: Path, node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("--private", str(logged), "--node", str(node)) == 2
    with pytest.raises(SystemExit):
        audit("--private", str(logged), "--expect", "abc")
    assert "16 to 64 hexadecimal digits" in capsys.readouterr().err


def test_a_site_without_a_log_has_no_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("--private", str(tmp_path)) == 0
    assert capsys.readouterr().out == "no entry\n"
    assert not list(tmp_path.iterdir())


def test_a_log_that_does_not_hold_its_end_stops_all_until_the_admin_accepts(
    hospital: Any, node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = NodePaths(node).audit_end
    egress = Egress(hospital.private, node / "policy.yaml", "H", end=end)
    told = RecordDict({"refused": ConfigRecord({"site": "H"})})
    for _ in range(2):
        assert egress.check(asked("query.hello"), told) is told
    log = ["audit", "log", "--node", str(node)]
    assert main([*log, "--accept-end"]) == 0
    assert "nothing to accept" in capsys.readouterr().out
    (hospital.private / AUDIT_FILE).unlink()
    with pytest.raises(AuditError, match="ends with entry 0 and does not hold entry 2"):
        egress.check(asked("query.hello"), told)
    assert not (hospital.private / AUDIT_FILE).exists()
    assert main(log) == 1
    assert "does not hold entry 2, which this node wrote last" in capsys.readouterr().err
    assert main(["audit", "log", "--private", str(hospital.private), "--accept-end"]) == 2
    assert main([*log, "--accept-end"]) == 0
    assert "accepted, as entry 1 of the log says" in capsys.readouterr().out
    assert egress.check(asked("query.hello"), told) is told
    assert main(log) == 0
    assert [entry.kind for entry in read_log(hospital.private)] == ["end-accepted", "sent"]
