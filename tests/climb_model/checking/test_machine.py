"""What the check tells of the site's machine, and of its clock."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from climb_model.checking import machine
from climb_model.checking.check import Options, check_site
from climb_model.checking.codes import CODES
from climb_model.checking.machine import (
    batch_bytes,
    check_clock,
    check_disk,
    check_memory,
    check_weights,
    token_bytes,
)
from climb_model.checking.timing import check_time
from climb_model.model.text import GERMAN_TOKENIZER
from configs.load import load_settings
from configs.schema import Settings

DATE = "Sun, 22 Nov 2026 06:00:00 GMT"
TEXTS = ("Zyste links, kein Karzinom.", "Karzinom rechts. Keine Zyste.", "漢字", "")
NOON = 1_795_327_200.0
"""The same in seconds."""


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("debug", ["training.num_threads=1"])


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers 404, with a fixed date."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(404)
            self.send_header("Date", DATE)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("offset", "code"),
    [
        (0.0, None),
        (4.9, None),
        (7.0, "machine.clock_ahead"),
        (-20.0, None),
        (-40.0, "machine.clock_behind"),
    ],
)
def test_the_clock_is_compared_with_the_server_s(
    offset: float, code: str | None, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "time", SimpleNamespace(time=lambda: NOON + 0.5 + offset))
    found = check_clock(server)
    assert [each.code for each in found] == ([code] if code else [])


def test_a_server_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://127.0.0.1:1/", "http://[::1", "nonsense", "http://\0", ""):
        assert [each.code for each in check_clock(address)] == ["machine.server_silent"]
    dateless = nullcontext(SimpleNamespace(headers={"Date": None}))
    opener = SimpleNamespace(open=lambda _, timeout: (timeout, dateless)[1])
    monkeypatch.setattr(machine.urllib.request, "build_opener", lambda _: opener)
    assert [each.code for each in check_clock("http://127.0.0.1:1/")] == ["machine.server_silent"]
    assert [each.code for each in check_clock(None)] == ["machine.clock_unchecked"]


def test_the_tokens_disk_space_is_that_of_the_store(settings: Settings) -> None:
    two = replace(settings, data=replace(settings.data, num_views=2))
    # 3 sequences x 4 slices x (64 wide x 2 bytes x views + 1)
    assert token_bytes(settings, 10, 5) == 15 * 12 * (128 + 1)
    assert token_bytes(two, 10, 5) == 10 * 12 * (256 + 1) + 5 * 12 * (128 + 1)


def test_a_full_disk_is_told(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = token_bytes(settings, 10, 0)
    for free, number in ((wanted, 0), (wanted - 1, 1)):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        found = check_disk(settings, 10, 0, tmp_path / "not" / "there")
        assert [each.code for each in found] == ["machine.disk"] * number


def test_the_estimate_of_memory_grows_with_the_batch_and_shrinks_with_chunks(settings: Settings) -> None:
    def with_training(**values: object) -> int:
        return batch_bytes(replace(settings, training=replace(settings.training, **values)), 50)

    small, large = with_training(batch_size=4), with_training(batch_size=8)
    assert with_training(batch_size=8, chunk_size=4) == small
    per_exam = (large - small) // 4
    assert per_exam == (68 * 64 + 10 * 2 * 13) * 13 + (68 * 64 + 10 * 2 * 50) * 50  # one layer, two passes
    assert with_training(batch_size=8, precision="bfloat16") == large - 4 * per_exam


def test_too_little_memory_is_told_with_the_device(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    found = check_memory(settings, 0)
    assert [each.code for each in found] == ["machine.device", "machine.memory"]
    monkeypatch.undo()
    assert [each.code for each in check_memory(settings, 0)] == ["machine.device"]
    told = check_memory(settings, 0)[0].what
    assert ("no GPU; " in told) == (not torch.cuda.is_available())


def test_missing_weights_are_named_without_a_path(tmp_path: Path) -> None:
    real = load_settings("real")
    assert [each.code for each in check_weights(real, None)] == ["machine.weights_unchecked"]
    folder = tmp_path / "dinov2-small"
    folder.mkdir()
    (folder / "config.json").touch()
    [found] = check_weights(real, tmp_path)
    assert (found.code, found.count) == ("machine.weights", 2)
    assert found.what.endswith(
        "weights of 'dinov2-small' lack model.safetensors; weights of 'e5-small-german' are missing"
    )
    assert str(tmp_path) not in found.what
    assert check_weights(load_settings("debug"), None) == []


def model_folder(folder: Path, shards: tuple[str, ...] = ("model.safetensors",)) -> Path:
    """A model's folder whose files are whole, if empty."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in shards:
        save_file({name: np.zeros(50, np.float32)}, folder / name)
    if len(shards) > 1:
        index = {"weight_map": {name: name for name in shards}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(GERMAN_TOKENIZER, folder / "tokenizer.json")
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_cut_file_of_weights_is_named(name: str, tmp_path: Path) -> None:
    real = load_settings("real")
    for model in ("dinov2-small", "e5-small-german"):
        model_folder(tmp_path / model)
    assert check_weights(real, tmp_path) == []
    cut(tmp_path / "e5-small-german" / name)
    [found] = check_weights(real, tmp_path)
    assert (found.code, found.count) == ("machine.weights", 1)
    assert found.what.endswith(f"weights of 'e5-small-german' are cut or damaged: {name}")


def test_of_weights_in_several_files_each_is_looked_at(tmp_path: Path) -> None:
    real, shards = load_settings("real"), ("model-1.safetensors", "model-2.safetensors")
    model_folder(tmp_path / "dinov2-small")
    folder = model_folder(tmp_path / "e5-small-german", shards)
    assert check_weights(real, tmp_path) == []
    cut(folder / shards[0])
    (folder / shards[1]).unlink()
    [found] = check_weights(real, tmp_path)
    assert found.what.endswith("damaged: model-1.safetensors, model-2.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')
    [found] = check_weights(real, tmp_path)
    assert found.what.endswith("damaged: model.safetensors.index.json")


def test_a_quick_check_tells_of_cut_weights_and_goes_on(sound_site: Path, tmp_path: Path) -> None:
    settings = load_settings("real", ["evaluation.findings=[Zyste, Karzinom]"])
    for model in ("dinov2-small", "e5-small-german"):
        model_folder(tmp_path / model)
    cut(tmp_path / "dinov2-small" / "model.safetensors")
    cut(tmp_path / "e5-small-german" / "tokenizer.json")
    result = check_site(sound_site, settings, Options(quick=True, private=tmp_path, weights=tmp_path))
    counts = {each.code: each.count for each in result.findings}
    assert (counts["machine.weights"], counts["reports.not_tokenized"]) == (2, 48)


def test_time_is_measured_where_the_encoders_are_here(settings: Settings, tmp_path: Path) -> None:
    [found] = check_time(settings, None, 100, TEXTS)
    assert found.code == "machine.time"
    assert "to encode 100 training exams once, then" in found.what
    assert found.what.endswith("a round of 2 steps")  # steps_per_round of the preset
    assert [each.code for each in check_time(settings, None, 100, ())] == ["machine.time_unknown"]
    real = load_settings("real")
    assert [each.code for each in check_time(real, None, 100, TEXTS)] == ["machine.time_unknown"]
    for name in ("dinov2-small", "e5-small-german"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"cut")
        (tmp_path / name / "tokenizer.json").write_text("{}")
    [found] = check_time(real, tmp_path, 100, TEXTS)
    assert (found.code, found.severity) == ("machine.weights", "error")
    assert str(tmp_path) not in found.what
    language = load_settings(
        "debug", ["model.fusion.language_model=any/llama", "model.text.weights=any/llama"]
    )
    assert [each.code for each in check_time(language, None, 100, TEXTS)] == ["machine.time_unknown"]


def test_free_memory_is_a_sane_number() -> None:
    assert 1e6 < machine.free_memory() < 1e14
    assert math.isfinite(machine.free_memory())


def test_reports_without_a_tokenizer_are_said_not_to_be_counted(sound_site: Path, tmp_path: Path) -> None:
    settings = load_settings("real", ["evaluation.findings=[Zyste, Karzinom]"])
    result = check_site(sound_site, settings, Options(quick=True, private=tmp_path))
    assert [each.count for each in result.findings if each.code == "reports.not_tokenized"] == [48]


def test_every_code_of_the_machine_has_a_test() -> None:
    here = {"disk", "memory", "device", "weights", "weights_unchecked", "time", "time_unknown"}
    here |= {"clock_ahead", "clock_behind", "clock_unchecked", "server_silent"}
    modes = {"site_mode", "reports_mode", "private_mode", "key_mode"}  # in test_check_site.py
    assert {f"machine.{name}" for name in here | modes} == {c for c in CODES if c.startswith("machine.")}
