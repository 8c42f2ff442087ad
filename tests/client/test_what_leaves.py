"""Every record, key, type and shape that leaves a hospital, and what is never among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.serde import message_to_proto
from torch import nn

from climb_model.model.climb import ClimbModel, build_model
from climb_model.sharing import HELLO_NUMBERS, HELLO_WORDS, REFUSAL_WORDS, TRAIN_METRICS, shared_spec
from configs.load import settings_hash

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
        "hello": {"site": "str", "fingerprint": "str", "settings": "str", "notices": "list"},
        "metrics": {"num-examples": "int"},
    }
    words, numbers = reply.content["hello"], reply.content["metrics"]
    assert words["site"] == "H"
    assert words["settings"] == settings_hash(hospital.settings)
    assert set(json.loads(str(words["fingerprint"]))) == {"vision", "text", "tokenizer", "preprocessing"}
    assert numbers["num-examples"] == 6
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


class WithGenerator(ClimbModel):
    """A model with trainable tensors that are not shared, as generators will be."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.generator = nn.Linear(3, 5)
        nn.init.constant_(self.generator.weight, WithGenerator.value)

    value = 0.0


def test_private_tensors_stay_at_the_site_and_are_kept_there(
    hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.app.build_model", WithGenerator)
    monkeypatch.setattr(WithGenerator, "value", 0.123456789)
    reply = hospital.train(round=1)
    assert not any("generator" in name for name in reply.content["arrays"])
    assert np.float32(0.123456789).tobytes() * 15 not in wire(reply)
    file = hospital.private / "study" / "round-0001.pt"
    assert torch.allclose(torch.load(file)["private"]["generator.weight"], torch.tensor(0.123456789))
    monkeypatch.setattr(WithGenerator, "value", 9.0)  # what a new model begins with
    hospital.train(round=2)
    kept = torch.load(hospital.private / "study" / "round-0002.pt")["private"]["generator.weight"]
    assert torch.allclose(kept, torch.tensor(0.123456789))


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

    monkeypatch.setattr("client.app.train_round", explode)
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
