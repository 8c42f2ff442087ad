"""The lines that may be said outside a site: each real one is known, and no other text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climb_model.data import folders
from climb_model.data.exam import DataError
from climb_model.data.folders import read_site
from climb_model.public_lines import _REASONS, FORMS, is_public  # pyright: ignore[reportPrivateUsage]

SENT = ("builtin:german", "Karzinom", "fusion.w")
LINES = (
    "loss nan and gradient norm 1.2345678901234567e-05 at round 12, step 3; wanted finite numbers",
    "loss 3.25 and gradient norm inf at round 1, step 1; wanted finite numbers",
    "12.5% of 5210 report tokens are unknown to the tokenizer of 'builtin:german', at most 2.0% wanted",
    "weights of 'builtin:german' lack config.json, tokenizer.json",
    "table reports.csv is missing",
    "mrt-befund.csv has no column 'Linke Mamma'",
    "findings.csv has no column 'Karzinom'",
    "findings.csv has a cell of 'Karzinom' that is not 0, 1 or empty",
    "no exam in split 'train'; left out: 3 x no report, 1 x no sequence file",
    "no exam in split 'train'; left out: none",
    "the server sent 'fusion.w' with shape (384, 768), expected ()",
    "the server sent 'fusion.w' as torch.float16, expected torch.float32",
    "sets its own chunk-size, which model.fusion.dropout=0.1 does not allow: dropout is drawn part by part",
    "failed with OSError; its own log says more",
)


@pytest.mark.parametrize("line", LINES)
def test_lines_of_this_program_are_known(line: str) -> None:
    assert is_public(line, SENT)
    assert not is_public(f"{line} Frau Meier", SENT)
    assert not is_public(f"Frau Meier: {line}", SENT)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Karzinom",
        "weights of 'Frau Meier' are missing",
        "failed with FrauMeier; its own log says more",
        "failed with str; its own log says more",
        "table meier.csv is missing",
        "findings.csv has no column 'Meier'",
        "annotation.csv line 3: Frau Meier",
        "no exam in split 'train'; left out: 3 x Frau Meier",
        "the data folder is missing",
        "\u0663 patients in two splits",
        f"{'9' * 10} patients in two splits",
    ],
)
def test_other_texts_are_not(line: str) -> None:
    assert not is_public(line, SENT)


def test_every_form_without_a_gap_is_its_own_line() -> None:
    plain = [form for form in FORMS if "{" not in form]
    assert len(plain) > 5
    assert all(is_public(form) for form in plain)


def test_the_reasons_for_leaving_exams_out_are_those_of_the_reader() -> None:
    names = [name for name in vars(folders) if name.startswith(("NO_", "BAD_"))]
    assert {getattr(folders, name) for name in names} == set(_REASONS)


def _cut(path: Path) -> None:
    path.write_text("", "utf-8")


def _twice(path: Path) -> None:
    rows = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([*rows, rows[1]]), "utf-8")


def _column(path: Path) -> None:
    path.write_text(path.read_text("utf-8").replace("UID", "Uid2", 1), "utf-8")


def _quote(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + '"open', "utf-8")


def _quoted(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + '"a"b,c\n', "utf-8")


def _latin(path: Path) -> None:
    path.write_bytes(path.read_bytes() + "ü".encode("latin-1"))


def _cells(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + "a,b,c,d,e,f,g\n", "utf-8")


@pytest.mark.parametrize("spoil", [Path.unlink, _cut, _twice, _column, _quote, _quoted, _latin, _cells])
def test_what_a_spoilt_table_is_told_as_is_known(
    make_site: Callable[..., Path], tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    site = make_site(tmp_path, "A", exams=4)
    spoil(site / "metadata_unilateral" / "reports.csv")
    with pytest.raises(DataError) as caught:
        read_site(
            site, "A", need_reports=True, need_findings=False, sequences=("Pre", "Sub", "T2"), findings=()
        )
    assert is_public(caught.value.public.removeprefix("site 'A': ")), caught.value.public
