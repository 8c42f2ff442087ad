"""What a hospital answers, and keeps, when its own exams or its loss cannot be trained on."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from client.train import resume_alone, train_alone
from climb_model.data.exam import DataError
from climb_model.progress import Silent, watched_by
from climb_model.runs import RoundRecord, RunFolder
from climb_model.training.errors import TrainingError
from configs.load import load_settings

TINY = ("training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "evaluation.bootstrap=20")
PRIVATE = ("objectives.coca=1", "objectives.inverse_coca=1", "model.generators.depth=1")


def refusal(reply: Any) -> str:
    [name] = reply.content
    assert name == "refused"
    return str(reply.content[name]["refused"])


def rewrite_reports(site: Path, text_of: Callable[[int, str], str]) -> None:
    table = site / "metadata_unilateral" / "reports.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for number, row in enumerate(rows[1:]):
        row[1] = text_of(number, row[1])
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def spoil(tokens: Path) -> None:
    """NaN in the first half of the kept tokens."""
    good = tokens.read_bytes()
    spoilt = np.full(len(good) // 4, np.nan, np.float16).tobytes()
    tokens.write_bytes(spoilt + good[len(spoilt) :])


def test_the_first_exchange_and_the_replies_count_the_exams_that_are_trained_on(hospital: Any) -> None:
    rewrite_reports(hospital.folder, lambda number, text: ("", "\u200b", text)[min(number, 2)])
    hello, reply = hospital.ask("query.hello"), hospital.train()
    assert hello.content["metrics"]["num-examples"] == 4  # of 6
    assert reply.content["metrics"]["num-examples"] == 4
    notices = list(hello.content["hello"]["notices"])
    assert notices[:2] == [
        "1 exams without a report left out",
        "1 exams without a word in their report left out",
    ]
    log = (hospital.private / "site.log").read_text("utf-8")
    assert all(notice in log for notice in notices)


def test_too_few_patients_are_refused_at_the_first_exchange(hospital: Any) -> None:
    rewrite_reports(hospital.folder, lambda number, text: text if number < 2 else "")
    told = refusal(hospital.ask("query.hello"))
    assert told == "site 'H': 2 patients or more with a report wanted, got 1"


def test_a_loss_that_is_not_finite_leaves_as_site_round_and_step(hospital: Any) -> None:
    hospital.ask("query.hello")
    spoil(hospital.private / "tokens" / "tokens-train.f16")
    told = refusal(hospital.train())
    assert told == "site 'H': loss nan and gradient norm nan at round 1, step 1; wanted finite numbers"
    assert not (hospital.private / "study").exists()


@pytest.mark.parametrize(
    ("spoilt", "overrides", "line"),
    [
        ("reports", (), "site 'KLINIK': 2 patients or more with a report wanted, got 1"),
        ("", ("evaluation.findings=[Zyste, Ωλξ]",), "tokenizer of 'builtin:german': prompt 'Ωλξ.' has 1"),
    ],
)
def test_a_site_alone_is_refused_before_a_round_is_written(
    make_site: Callable[..., Path], tmp_path: Path, spoilt: str, overrides: tuple[str, ...], line: str
) -> None:
    site, out = make_site(tmp_path / "data", "KLINIK", exams=8), tmp_path / "run"
    if spoilt:
        rewrite_reports(site, lambda number, text: text if number < 2 else "")
    with pytest.raises(DataError) as caught:
        train_alone(site, load_settings("debug", [*TINY, *overrides]), out)
    assert str(caught.value).startswith(line)
    assert not (out / "checkpoints").exists()
    assert spoilt or not list(out.rglob("tokens"))  # a prompt is refused before any image is read


class Spoiler(Silent):
    """After round 1 turns the kept slice tokens into NaN."""

    def __init__(self, tokens: Path) -> None:
        self.tokens = tokens

    def round_done(self, record: RoundRecord) -> None:
        """Spoil, once."""
        if record.round == 1:
            shutil.copy(self.tokens, self.tokens.with_suffix(".good"))
            spoil(self.tokens)


def test_a_site_alone_stops_at_nan_and_goes_on_from_its_last_good_round(
    make_site: Callable[..., Path], tmp_path: Path
) -> None:
    settings = load_settings("debug", [*TINY, *PRIVATE, "federation.num_rounds=3"])
    site, out = make_site(tmp_path / "data", "KLINIK", exams=24), tmp_path / "run"
    tokens = RunFolder(out, "run", settings).site("KLINIK") / "tokens" / "tokens-train.f16"
    line = r"^site 'KLINIK': loss nan and gradient norm nan at round 2, step \d; wanted finite numbers$"
    with watched_by(Spoiler(tokens)), pytest.raises(TrainingError, match=line):
        train_alone(site, settings, out)
    run = RunFolder.open(out)
    assert [record.round for record in run.history()] == [0, 1]
    assert run.summary() is None
    shutil.copy(tokens.with_suffix(".good"), tokens)
    resume_alone(out)
    train_alone(site, settings, tmp_path / "whole")
    ours, theirs = (load_file(folder / "shared.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
