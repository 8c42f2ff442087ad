"""A policy file: written and read back equal, and refused whenever it cannot be meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from client.egress.policy import (
    Minimum,
    PolicyFileError,
    default_policy,
    read_policy,
    write_policy,
)
from client.egress.policy_text import tensor_text
from climb_model.model.climb import build_model
from climb_model.sharing import HELLO_WORDS, TRAIN_METRICS, shared_spec
from configs.load import load_settings, preset_names

CA = "0123456789abcdef" * 4
LEAST = {"exams": 3, "tokens": 3, "batch_tokens": 3, "steps": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    write_policy(path, default_policy([CA]))
    return path


def edited(file: Path, **changed: Any) -> Path:
    """The file with other values; None takes a key out."""
    values = yaml.safe_load(file.read_text("utf-8")) | changed
    file.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return file


def test_a_policy_is_read_back_equal_and_only_its_owner_reads_it(file: Path) -> None:
    policy = default_policy([CA])
    assert read_policy(file) == policy
    assert file.stat().st_mode & 0o777 == 0o600
    other = replace(
        policy,
        coordinators=(),
        studies=("Köln",),
        presets=("*",),
        tensors={"log_scale": (), "fusion.*": None, "fusion.w": (2, 3)},
        numbers={"hello": (), "train": ("loss",)},
        words={"hello": {}, "refused": {"site": 0}},
        minimum=Minimum(exams=100, tokens=1000, batch_tokens=500, steps=5),
    )
    write_policy(file, other)
    assert read_policy(file) == other


def test_the_file_explains_each_key(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    for key in yaml.safe_load(file.read_text("utf-8")):
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        before = lines[:place]
        while before and before[-1].startswith(("bytes_", "rounds_", "messages_")):
            before.pop()
        assert before[-1].startswith("#"), key


def test_the_default_lets_leave_what_this_version_sends_and_no_shared_generators(file: Path) -> None:
    policy = read_policy(file)
    assert policy.coordinators == (CA,)
    assert set(policy.presets) == set(preset_names()) - {"climb-code"}
    assert policy.numbers["train"] == tuple(TRAIN_METRICS)
    assert set(policy.words["hello"]) == set(HELLO_WORDS)
    assert policy.minimum == Minimum(exams=32, tokens=384, batch_tokens=384, steps=2)
    for preset in preset_names():
        with torch.device("meta"):
            spec = shared_spec(build_model(load_settings(preset)))
        stays = {name for name in spec if not policy.names_tensor(name)}
        assert stays == ({"image_head.weight", "start_token"} if preset == "climb-code" else set())


def test_nothing_of_the_generators_is_named_by_default() -> None:
    policy = default_policy([CA])
    assert not any(
        policy.names_tensor(name) for name in ("report_generator.head.weight", "slice_generator.x")
    )
    assert not any(policy.names_tensor(name) for name in ("fusio", "fusion", "log_scale2", "", "xfusion.w"))


def test_the_longest_beginning_decides(file: Path) -> None:
    policy = read_policy(edited(file, tensors={"fusion.*": [1], "fusion.a.*": [2], "fusion.a.b": [3]}))
    assert [policy.shape_of(f"fusion.{name}") for name in ("x", "a.c", "a.b")] == [(1,), (2,), (3,)]
    with pytest.raises(KeyError):
        policy.shape_of("log_scale")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"coordinator": []}, "there is no key 'coordinator'; did you mean 'coordinators'?"),
        ({"everything": True}, "there is no key 'everything'"),
        ({"tensors": None}, "tensors is missing; a policy has no defaults"),
        (
            {"minimum": {"exams": 3, "tokens": 3, "batch_tokens": 3}},
            "minimum.steps is missing; a policy has no",
        ),
        ({"minimum": LEAST | {"x": 1}}, "there is no key 'minimum.x'"),
        ({"minimum": 5}, "minimum must be names with values, got 5"),
        ({"numbers": {"hello": []}}, "numbers.train is missing"),
        ({"numbers": {"hello": [], "train": "loss"}}, "numbers.train must be a list, got 'loss'"),
        ({"words": {"hello": {"site": "64"}, "refused": {}}}, "words.hello.site must be a whole number >= 0"),
        ({"words": {"hello": ["site"], "refused": {}}}, "words.hello must be names with values"),
        ({"coordinators": ["abc"]}, "coordinators must hold SHA-256 digests of 64 hexadecimal digits"),
        ({"coordinators": CA}, "coordinators must be a list"),
        ({"studies": [5]}, "studies must hold names, got 5"),
        ({"presets": ["clim"]}, "there is no preset 'clim'; did you mean 'climb'?"),
        ({"tensors": ["fusion.*"]}, "tensors must be names with values"),
        ({"tensors": {"fu*n": "agreed"}}, "tensors: a name has letters, digits"),
        ({"tensors": {"fusion.*": "any"}}, "tensors.fusion.* must be a shape such as [384, 768] or 'agreed'"),
        ({"tensors": {"fusion.*": [1, "x"]}}, "tensors.fusion.* must be a whole number >= 1, got 'x'"),
        ({"dtypes": ["float64"]}, "dtypes must be among float32, float16, got 'float64'"),
        ({"bytes_per_round": 1.5}, "bytes_per_round must be a whole number >= 0, got 1.5"),
        ({"bytes_per_run": True}, "bytes_per_run must be a whole number >= 0, got True"),
        ({"rounds_per_day": -1}, "rounds_per_day must be a whole number >= 0, got -1"),
        ({"messages_per_day": None}, "messages_per_day is missing; a policy has no defaults"),
        ({"minimum": LEAST | {"exams": 0}}, "minimum.exams must be a whole number >= 1"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(file: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyFileError) as error:
        read_policy(edited(file, **changed))
    line = str(error.value)
    assert line.startswith(f"{file}: ")
    assert told in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "a policy must be names with values, got None"),
        (b"- a", "a policy must be names with values"),
        (b"1: 2", "a policy must be names with values"),
        (b"a: [", "is no YAML text"),
        (b"studies: []\nstudies: []", "'studies' is given twice (line 2)"),
        (b"studies: !!python/object/apply:os.getcwd []", "is no YAML text"),
        (b"? [a]\n: b", "is no YAML text"),
        (b"\xff\xfe\xfa", "is no YAML text"),
    ],
)
def test_files_that_are_no_policy(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text)
    with pytest.raises(PolicyFileError, match=r".+") as error:
        read_policy(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_file_there_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="is missing: nothing leaves this site"):
        read_policy(tmp_path / "policy.yaml")
    with pytest.raises(PolicyFileError, match="cannot be read"):
        read_policy(tmp_path)


def test_exact_tensors_can_be_put_into_the_file(file: Path) -> None:
    with torch.device("meta"):
        spec = shared_spec(build_model(load_settings("debug")))
    pinned = yaml.safe_load(tensor_text(spec))
    assert read_policy(edited(file, **pinned)).tensors == spec
