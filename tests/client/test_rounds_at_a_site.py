"""A site's part of a round: what it starts from, what it replies, what it keeps to itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from client.app import app
from climb_model.made_by import program_version
from climb_model.model.climb import build_model
from climb_model.run_config import to_run_config
from climb_model.sharing import BEHIND_NUMBERS, BEHIND_UPDATE, shared_state
from configs.load import load_settings

BASE = ("training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "evaluation.max_unknown_share=0.9")


def with_settings(hospital: Any, *overrides: str) -> Any:
    return replace(hospital, settings=load_settings("debug", [*BASE, *overrides]))


def tensors(reply: Message) -> dict[str, torch.Tensor]:
    assert "arrays" in reply.content, dict(reply.content["refused"])
    return dict(reply.content["arrays"].to_torch_state_dict())


def log(hospital: Any) -> str:
    return (hospital.private / "site.log").read_text()


def test_in_float16_a_site_trains_from_the_rounded_weights_and_replies_with_what_it_changed(
    hospital: Any,
) -> None:
    start = shared_state(build_model(hospital.settings))
    rounded = {name: value.half() for name, value in start.items()}
    whole = tensors(hospital.train(shared={name: value.float() for name, value in rounded.items()}))
    for state in (hospital.private / "study").glob("*.pt"):
        state.unlink()
    half = tensors(with_settings(hospital, "federation.payload=float16").train(shared=rounded))
    assert {value.dtype for value in half.values()} == {torch.float16}
    for name, value in half.items():
        change = whole[name] - rounded[name].float()
        assert torch.equal(value, change.half()), name
    assert any(value.any() for value in half.values())


def test_weights_of_another_type_than_agreed_are_refused(hospital: Any) -> None:
    reply = with_settings(hospital, "federation.payload=float16").train()
    assert "as torch.float32, expected torch.float16" in str(reply.content["refused"]["refused"])


def test_a_change_too_large_for_float16_is_refused_in_one_line_and_leaves_no_state(
    hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = with_settings(hospital, "federation.payload=float16")
    huge = {name: value + 1e6 for name, value in shared_state(build_model(hospital.settings)).items()}
    monkeypatch.setattr("client.app.shared_state", lambda _: huge)
    rounded = {name: (value - 1e6).half() for name, value in huge.items()}
    line = str(hospital.train(shared=rounded).content["refused"]["refused"])
    assert line.startswith("site 'H': '")
    assert line.endswith("which float16 cannot hold; wanted: federation.payload=float32")
    assert not list(hospital.private.glob("study/*.pt"))


def test_what_lies_behind_an_update_stays_in_the_context_and_a_refusal_has_none(hospital: Any) -> None:
    node = {"name": "H", "data": str(hospital.folder), "private": str(hospital.private)}
    context = Context(
        run_id=1,
        node_id=2,
        node_config=node,  # type: ignore[arg-type]
        state=RecordDict(),
        run_config=to_run_config(hospital.settings, "study"),  # type: ignore[arg-type]
    )
    request = hospital.order()
    reply = app(request, context)
    behind = dict(context.state[BEHIND_UPDATE])
    assert set(behind) == set(BEHIND_NUMBERS)
    assert behind["num-exams"] == 4  # of two steps, the first of the warm-up changes next to nothing
    assert (behind["num-steps"], reply.content["metrics"]["num-steps"]) == (1, 2)
    assert behind["num-tokens"] > 6
    assert 4 <= behind["num-batch-tokens"] <= behind["num-tokens"]
    assert set(reply.content) == {"arrays", "metrics"}
    refused = app(hospital.order(round=99), context)
    assert set(refused.content) == {"refused"}
    assert BEHIND_UPDATE not in context.state


def test_a_site_that_missed_rounds_goes_on_from_its_last_private_state(hospital: Any) -> None:
    hospital = with_settings(hospital, "objectives.coca=1", "federation.num_rounds=9")

    def kept(number: int) -> dict[str, torch.Tensor]:
        return torch.load(hospital.private / "study" / f"round-{number:04d}.pt")["private"]

    tensors(hospital.train(round=1))
    tensors(hospital.train(round=2))
    second = kept(2)
    tensors(hospital.train(round=5))
    assert sorted(path.name for path in (hospital.private / "study").glob("*.pt")) == [
        "round-0002.pt",
        "round-0005.pt",
    ]
    name = "report_generator.head.weight"
    untrained = dict(build_model(hospital.settings).named_parameters())[name].detach()
    assert (kept(5)[name] - second[name]).norm() < (kept(5)[name] - untrained).norm()
    assert "starting without" not in log(hospital)


def test_what_the_coordinator_tells_this_site_alone_is_in_its_log_on_one_line(hospital: Any) -> None:
    hospital.train(round=2, notice="your reply of round 1 came too late:\n34 s were allowed" + "x" * 500)
    [line] = [line for line in log(hospital).splitlines() if "the coordinator says" in line]
    assert "round 2: the coordinator says: your reply of round 1 came too late: 34 s were allowed" in line
    assert len(line) < 420


def test_a_setting_that_this_version_does_not_know_is_told_with_the_version(hospital: Any) -> None:
    config = to_run_config(hospital.settings, "study") | {"overrides": json.dumps(["training.later=1"])}
    reply = hospital.ask("query.hello", run_config=config)
    line = str(reply.content["refused"]["refused"])
    assert "training has no key 'later'" in line
    assert line.endswith(f"climb-federated {program_version()} runs here")


def test_the_first_exchange_tells_counts_and_nothing_else(hospital: Any) -> None:
    words = hospital.ask("query.hello").content["hello"]
    summary = json.loads(str(words["summary"]))
    assert set(summary) == {"splits", "lacking", "left_out"}
    assert summary["splits"]["train"]["exams"] == 6
    assert set(summary["splits"]) == {"train", "val", "test"}
    assert set(summary["lacking"]) == set(hospital.settings.data.sequences)
    assert words["version"] == program_version()
