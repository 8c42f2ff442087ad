"""Every record, key, type and shape that leaves a hospital, and what is never among them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.serde import message_to_proto

from climb_model.model.climb import build_model
from climb_model.sharing import (
    HELLO_NUMBERS,
    HELLO_WORDS,
    REFUSAL_WORDS,
    TRAIN_METRICS,
    private_state,
    shared_spec,
)
from configs.load import load_settings, settings_hash

WIDTH, TEXT, SLICES = 64, 64, 192
SHARED = {
    "fusion.class_token": (WIDTH,),
    "slice_positions.weight": (SLICES, WIDTH),
    "text_projection.weight": (WIDTH, TEXT),
    "log_scale": (),
}
"""The shared tensors outside the transformer's own layers, by hand."""


def listing(message: Message) -> dict[str, dict[str, Any]]:
    """Each record of a message: its keys with their types, and for tensors type and shape."""
    found: dict[str, dict[str, Any]] = {}
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            found[name] = {key: (array.dtype, tuple(array.shape)) for key, array in record.items()}
        else:
            found[name] = {key: type(value).__name__ for key, value in record.items()}
    return found


def wire(message: Message) -> bytes:
    """The message as Flower serializes it, arrays' bytes included."""
    return message_to_proto(message).SerializeToString()


def assert_no_marker(content: bytes) -> None:
    for marker in ("Geheimwort", "PAT4711", "Krankenhausordner", "Privatordner", "_left", "Karzinom"):
        assert marker.encode() not in content, f"{marker} left the hospital"


def test_the_first_exchange_carries_exactly_this(hospital: Any) -> None:
    reply = hospital.ask("query.hello")
    assert listing(reply) == {
        "hello": {
            "site": "str",
            "version": "str",
            "versions": "str",
            "fingerprint": "str",
            "settings": "str",
            "summary": "str",
            "notices": "list",
        },
        "metrics": {"num-examples": "int", "clock": "float"},
    }
    words, numbers = reply.content["hello"], reply.content["metrics"]
    assert words["site"] == "H"
    assert words["settings"] == settings_hash(hospital.settings)
    assert set(json.loads(str(words["fingerprint"]))) == {"vision", "text", "tokenizer", "preprocessing"}
    assert numbers["num-examples"] == 6
    assert numbers["clock"] == pytest.approx(time.time(), abs=60)
    assert set(json.loads(str(words["versions"]))) == {
        "python",
        "torch",
        "flwr",
        "transformers",
        "x-transformers",
    }
    assert_no_marker(wire(reply))


def test_a_training_reply_carries_exactly_this(hospital: Any) -> None:
    reply = hospital.train()
    found = listing(reply)
    assert set(found) == {"arrays", "metrics"}
    assert found["metrics"] == {
        "num-examples": "int",
        "num-steps": "int",
        "loss": "float",
        "seconds": "float",
    }
    assert found["arrays"] == {
        name: ("float32", shape) for name, shape in shared_spec(build_model(hospital.settings)).items()
    }
    outside = {
        name: shape for name, (_, shape) in found["arrays"].items() if not name.startswith("fusion.layers")
    }
    assert SHARED.items() <= outside.items()
    assert {name.split(".")[0] for name in outside} == {
        "fusion",
        "slice_positions",
        "text_projection",
        "log_scale",
    }
    assert_no_marker(wire(reply))


def test_what_leaves_is_what_the_list_says(hospital: Any) -> None:
    hello, train = hospital.ask("query.hello"), hospital.train()
    assert set(hello.content["hello"]) == set(HELLO_WORDS)
    assert set(hello.content["metrics"]) == set(HELLO_NUMBERS)
    assert {key: type(value) for key, value in train.content["metrics"].items()} == TRAIN_METRICS
    assert isinstance(hello.content["hello"], ConfigRecord)
    assert isinstance(train.content["metrics"], MetricRecord)


def test_the_markers_are_really_in_the_hospitals_files(hospital: Any) -> None:
    """Otherwise the tests above would find nothing whatever leaves."""
    assert "Geheimwort" in (hospital.folder / "metadata_unilateral" / "reports.csv").read_text()
    assert "PAT4711" in str(hospital.folder)
    assert "Krankenhausordner" in str(hospital.folder)
    assert "Privatordner" in str(hospital.private)


GENERATORS = ("objectives.coca=1", "objectives.inverse_coca=1")
REUSED = (*GENERATORS, "model.fusion.causal=true", "model.generators.kind=reused")


def with_settings(hospital: Any, *overrides: str) -> Any:
    base = [
        "training.num_threads=1",
        "evaluation.findings=[Zyste, Karzinom]",
        "evaluation.max_unknown_share=0.9",
    ]
    return replace(hospital, settings=load_settings("debug", [*base, *overrides]))


def test_generators_are_trained_at_the_site_and_never_leave_it(hospital: Any) -> None:
    hospital = with_settings(hospital, *GENERATORS)
    reply = hospital.train(round=1)
    sent = reply.content["arrays"]
    assert set(sent) == set(shared_spec(build_model(hospital.settings)))
    assert not any("generator" in name for name in sent)
    first = torch.load(hospital.private / "study" / "round-0001.pt")["private"]
    assert {name.split(".")[0] for name in first} == {"report_generator", "slice_generator"}
    message = wire(reply)
    for name, value in first.items():
        assert value.numel() < 16 or value.numpy().tobytes()[:64] not in message, name
        assert name.encode() not in message
    untrained = private_state(build_model(hospital.settings))
    assert all(not torch.equal(first[name], untrained[name]) for name in first if name.endswith("weight"))
    hospital.train(round=2)
    second = torch.load(hospital.private / "study" / "round-0002.pt")["private"]
    start, end = (
        second["report_generator.head.weight"] - kept["report_generator.head.weight"]
        for kept in (untrained, first)
    )
    assert end.norm() < start.norm()  # round 2 went on from round 1, not from the untrained weights


def test_a_study_that_shares_what_writes_reports_is_refused_unless_the_site_allows_it(hospital: Any) -> None:
    hospital = with_settings(hospital, *REUSED)
    for kind in ("query.hello", "train"):
        line = refusal(hospital.ask(kind) if kind != "train" else hospital.train())
        assert line == (
            "site 'H' does not take part: model.generators.kind=reused shares the weights that write "
            "reports, and this site's policy (shared-generators) does not allow it"
        )
    assert not hospital.private.joinpath("study").exists()
    reply = hospital.ask("query.hello", **{"shared-generators": "true"})
    assert set(reply.content) == {"hello", "metrics"}


def test_the_released_codes_form_without_generators_shares_nothing_more_and_is_not_refused(
    hospital: Any,
) -> None:
    hospital = with_settings(hospital, *REUSED, "objectives.coca=0", "objectives.inverse_coca=0")
    assert set(hospital.ask("query.hello").content) == {"hello", "metrics"}
    assert not {"image_head.weight", "start_token"} & set(hospital.train().content["arrays"])


def test_a_site_chooses_its_memory_alone(hospital: Any) -> None:
    """Chunks are not part of the settings that two partners compare."""
    whole, parts = (hospital.ask("query.hello", **extra) for extra in ({}, {"chunk-size": "2"}))
    assert whole.content["hello"]["settings"] == parts.content["hello"]["settings"]


def refusal(reply: Message) -> str:
    assert set(reply.content) == {"refused"}
    assert set(reply.content["refused"]) == set(REFUSAL_WORDS) == {"site", "refused"}
    assert_no_marker(wire(reply).replace(b"1 patients", b""))
    line = str(reply.content["refused"]["refused"])
    assert "\n" not in line
    return line


def test_broken_data_leaves_as_one_public_line_and_whole_on_the_sites_own_log(hospital: Any) -> None:
    (hospital.folder / "metadata_unilateral" / "split.csv").unlink()
    line = refusal(hospital.ask("query.hello"))
    assert "'H'" in line
    log = (hospital.private / "site.log").read_text()
    assert "split.csv" in log


def test_an_unexpected_error_leaves_as_its_class_only(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise KeyError("Geheimwort in /Krankenhausordner/PAT4711_left")

    monkeypatch.setattr("client.app.train_on", explode)
    assert refusal(hospital.train()) == "site 'H': failed with KeyError; its own log says more"
    assert "Geheimwort" in (hospital.private / "site.log").read_text()


def test_a_site_that_is_not_set_up_says_so_without_its_paths(hospital: Any) -> None:
    damaged = hospital.private / "study" / "round-0001.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"rubbish")
    line = refusal(hospital.train(round=2))
    assert line == "site 'H': is not set up as it should be; its own log says how"
    assert str(damaged) in (hospital.private / "site.log").read_text()


@pytest.mark.parametrize(
    ("round", "global_step", "told"),
    [
        (0, 0, "asked for round 0, expected 1 to 2"),
        (3, 0, "asked for round 3, expected 1 to 2"),
        (1, -1, "sent global step -1"),
        (1, 0.5, "sent global step 0.5"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    hospital: Any, round: object, global_step: object, told: str
) -> None:
    assert told in refusal(hospital.train(round, global_step))
    assert not list(Path(hospital.private).glob("study/*.pt"))


def test_weights_that_are_not_the_agreed_ones_are_refused(hospital: Any) -> None:
    spec = shared_spec(build_model(hospital.settings))
    nan = {name: torch.full(shape, float("nan")) for name, shape in spec.items()}
    assert "the server sent" in refusal(hospital.train(shared=nan))
    assert "the server did not send" in refusal(hospital.train(shared={"log_scale": torch.tensor(0.0)}))
