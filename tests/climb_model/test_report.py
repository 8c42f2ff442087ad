"""The report page: whole, self-contained, escaped, and strict about the run folder it is made of."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from climb_model.evaluation.statistics import auc_table, mean_auc, mean_auc_interval
from climb_model.report.charts import Frame, Line, line_chart, roc_chart, spread, ticks
from climb_model.report.evaluated import write_evaluation_report
from climb_model.report.html import Html, join, tag
from climb_model.report.page import HELLO_IN_WORDS, write_report
from climb_model.runs import RoundRecord, RunFolder, SiteRound
from climb_model.sharing import HELLO_NUMBERS, HELLO_WORDS
from configs.load import load_settings, settings_hash

MakeRun = Callable[..., Path]
EVIL = '<script>alert("x")</script>'


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A small finished run, as the server leaves it behind."""

    def make(
        *,
        num_rounds: int = 3,
        sites: tuple[str, ...] = ("Aachen", "Köln"),
        without_positives: str = "",
        rejected: tuple[dict[str, str], ...] = (),
        more: dict[str, object] | None = None,
        preset: str = "climb",
        overrides: tuple[str, ...] = (),
    ) -> Path:
        config = load_settings(preset, [*overrides, f"federation.num_rounds={num_rounds}"])
        run = RunFolder.create(tmp_path / "run", config, "erste_Studie")
        findings = config.evaluation.findings
        generator = np.random.default_rng(0)
        labels = (generator.random((60, len(findings))) < 0.3).astype(np.float64)
        labels[0, 0] = np.nan
        if without_positives:
            labels[:, findings.index(without_positives)] = 0
        scores = np.nan_to_num(labels) + generator.normal(size=labels.shape)
        patients = [f"patient-{exam // 2}" for exam in range(60)]
        run.write_predictions([f"uid-{exam}" for exam in range(60)], patients, findings, labels, scores)
        rows = auc_table(scores, labels, patients, findings, draws=50, seed=0)
        low, high = mean_auc_interval(scores, labels, patients, draws=50, seed=0)
        history = [
            RoundRecord(
                round=number,
                seconds=2.0,
                global_step=10 * number,
                sites={site: one_site(number) for site in sites} if number else {},
                mean_auc=0.5 + 0.1 * number,
                auc={row.finding: None if row.auc is None else 0.5 + 0.1 * number for row in rows},
                rejected=rejected if number == num_rounds else (),
            )
            for number in range(num_rounds + 1)
        ]
        run.write_history(history)
        run.write_shared({"fusion.proj": torch.zeros(8, 4), "log_scale": torch.zeros(())}, 3, {})
        run.write_summary(
            {
                "study": run.study,
                "rounds": num_rounds,
                "sites": len(sites),
                "exams": {site: 140 for site in sites},
                "mean_auc": mean_auc(rows)[0],
                "mean_auc_ci_low": low,
                "mean_auc_ci_high": high,
                "auc_table": {
                    row.finding: {
                        "auc": row.auc,
                        "ci_low": row.ci_low,
                        "ci_high": row.ci_high,
                        "positives": row.positives,
                        "negatives": row.negatives,
                    }
                    for row in rows
                },
                "shared_tensors": 2,
                "shared_parameters": 33,
                "seconds": 75.0,
                "engine": "local",
                "config_hash": settings_hash(config),
                **(more or {}),
            }
        )
        return run.path

    return make


def one_site(number: int) -> SiteRound:
    return SiteRound(
        exams=140, steps=10, loss=3.5 - 0.5 * number, seconds=1.0, bytes_up=2_000_000, bytes_down=3_000_000
    )


class Outline(HTMLParser):
    """Checks that elements are closed as they were opened, and collects names, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += f" {data}"

    def close(self) -> None:
        super().close()
        assert not self._open


def outline(page: Path) -> Outline:
    parser = Outline()
    parser.feed(page.read_text("utf-8"))
    parser.close()
    return parser


def test_the_page_tells_the_run(make_run: MakeRun) -> None:
    run = make_run(
        more={"comparison": {"supervised_ceiling": 0.93, "best_site": {"name": "Köln", "mean_auc": 0.6}}}
    )
    page = write_report(run)
    assert page == run / "report.html"
    read = outline(page)
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    for text in (
        "CLIMB: erste_Studie",
        "Research use, not a medical device.",
        f"0.500 → {summary['mean_auc']:.3f}",
        f"[{summary['mean_auc_ci_low']:.3f}, {summary['mean_auc_ci_high']:.3f}]",
        "2.0 MB up, 3.0 MB down",
        "33 weights in 2 tensors",
        "1 min 15 s",
        "of 30 patients",
        "Radiäre Narbe",
        "Köln",
        "supervised ceiling",
        "best single site (Köln)",
        "chance",
        "None: every site was admitted",
        "8 × 4",
        "warmup_steps: 1000",
        "mean training loss (weighted sum of the objectives)",
    ):
        assert text in read.text
    for finding, row in summary["auc_table"].items():
        assert finding in read.text
        assert f"{row['auc']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" in re.sub(
            r"\s+", " ", read.text
        )
        assert f"{row['positives']} / {row['negatives']}" in read.text


def test_the_page_loads_nothing_and_runs_nothing(make_run: MakeRun) -> None:
    page = write_report(make_run())
    read = outline(page)
    assert not read.names & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "a",
        "image",
    }
    assert not {name for name in read.attributes if name.startswith("on")}
    assert not read.attributes & {"src", "href", "style"}
    text = page.read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert "default-src &#x27;none&#x27;" in text


def test_words_of_peers_and_people_are_escaped(make_run: MakeRun) -> None:
    run = make_run(
        sites=("Aachen", EVIL),
        rejected=({"site": EVIL, "reason": f"'><img src=x onerror=alert(1)>{EVIL}\x1b[31m"},),
        more={
            "study": EVIL,
            "engine": EVIL,
            "comparison": {"best_site": {"name": EVIL, "mean_auc": 0.6}},
        },
    )
    page = write_report(run)
    read = outline(page)
    assert "script" not in read.names
    assert "img" not in read.names
    assert "onerror" not in read.attributes
    assert read.text.count(EVIL) >= 5
    assert "\x1b" not in page.read_text("utf-8")


def test_findings_in_the_settings_are_escaped(make_run: MakeRun) -> None:
    run = make_run()
    for name in ("predictions.csv", "summary.json", "history.jsonl"):
        text = (run / name).read_text("utf-8")
        (run / name).write_text(text.replace("Zyste", "Z</svg><script>y"), "utf-8")
    read = outline(write_report(run))
    assert "script" not in read.names
    assert "Z</svg><script>y" in read.text


def test_nothing_that_identifies_an_exam_is_on_the_page(make_run: MakeRun) -> None:
    text = write_report(make_run()).read_text("utf-8")
    assert "uid-" not in text
    assert "patient-" not in text


def test_an_undefined_finding_is_named_and_has_no_curve(make_run: MakeRun) -> None:
    read = outline(write_report(make_run(without_positives="Zyste")))
    assert "Undefined, because no exam has it or none is without it: Zyste." in read.text
    assert "mean of the defined" in read.text
    assert "undefined: one kind of exam only" in read.text


def empty_summary(run: Path) -> None:
    """Make the run one without any label, as `unmeasured` leaves it."""
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    none = {"auc": None, "ci_low": None, "ci_high": None, "positives": 0, "negatives": 0}
    summary["auc_table"] = dict.fromkeys(summary["auc_table"], none)
    summary |= dict.fromkeys(("mean_auc", "mean_auc_ci_low", "mean_auc_ci_high"))
    (run / "summary.json").write_text(json.dumps(summary), "utf-8")
    (run / "predictions.csv").write_text("uid,patient,finding,label,score\n", "utf-8")


@pytest.mark.parametrize("write", [write_report, write_evaluation_report])
def test_the_mean_says_over_how_many_findings_it_is(
    make_run: MakeRun, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    place = {"measured_on": {"site": "K", "split": "test"}, "central_exams": 60, "central_notices": []}
    run = make_run(without_positives="Zyste", more={**operating(), **place})
    assert "AUC over the 8 of 9 findings that are defined" in outline(write(run)).text
    shutil.move(run, tmp_path / "before")
    run = make_run(more={**operating(), **place})
    assert "AUC over 9 findings" in outline(write(run)).text
    empty_summary(run)
    text = outline(write(run)).text
    assert "not measured: no labels" in text
    assert "AUC over 9" not in text
    assert "undefined →" not in text


def test_rejected_sites_are_listed_with_their_reason(make_run: MakeRun) -> None:
    read = outline(write_report(make_run(rejected=({"site": "Bonn", "reason": "the reply is not finite"},))))
    assert "the reply is not finite" in read.text
    assert "None: every site" not in read.text


def test_many_sites_become_a_median_and_one_round_a_point(make_run: MakeRun) -> None:
    read = outline(write_report(make_run(num_rounds=1, sites=tuple(f"site{i}" for i in range(12)))))
    assert "median of 12 sites" in read.text


def test_the_name_of_the_loss_fits_beside_a_narrow_chart(make_run: MakeRun) -> None:
    text = write_report(make_run()).read_text("utf-8")
    labels = re.findall(r'aria-label="(mean training loss[^"]*) over round"', text)
    assert labels == ["mean training loss (weighted sum of the objectives)", "mean training loss"]


def test_the_same_run_gives_the_same_page(make_run: MakeRun) -> None:
    run = make_run()
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def operating(**first: float | None) -> dict[str, object]:
    """The summary's keys on calibration and thresholds; the values of `Fibroadenom` can be changed."""
    row = {
        "brier": 0.125,
        "calibration_error": 0.25,
        "threshold": 0.375,
        "sensitivity": 0.625,
        "specificity": 0.875,
    }
    findings = load_settings("climb").evaluation.findings
    return {
        "validation_exams": 40,
        "operating_specificity": 0.9,
        "operating": {finding: row | (first if finding == "Fibroadenom" else {}) for finding in findings},
    }


def test_calibration_and_thresholds_are_a_table_with_the_specificity_reached(make_run: MakeRun) -> None:
    undefined = dict.fromkeys(("threshold", "sensitivity", "specificity"))
    text = " ".join(outline(write_report(make_run(more=operating(**undefined)))).text.split())
    assert "specificity 0.90 on 40 validation exams" in text
    assert "Fibroadenom 0.125 0.250 - - - Adenose 0.125 0.250 0.375 0.625 0.875" in text


def test_a_run_from_before_calibration_was_recorded_has_no_such_table(make_run: MakeRun) -> None:
    assert "Calibration" not in outline(write_report(make_run())).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"brier": "low"}, "must hold a number, got 'low'"),
        ({"recall": 0.5}, "is no summary of a run: .*recall"),
    ],
)
def test_calibration_that_is_none_is_refused(make_run: MakeRun, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"summary\.json {message}") as caught:
        write_report(make_run(more=operating(**change)))
    assert "\n" not in str(caught.value)


def test_notices_are_on_the_page(make_run: MakeRun) -> None:
    told = {"central_notices": ["2 exams left out"], "notices": {"Köln": ["3 of 9 report tokens unknown"]}}
    text = outline(write_report(make_run(more=told))).text
    assert "the server's own exams: 2 exams left out" in text
    assert "site Köln: 3 of 9 report tokens unknown" in text


def test_only_a_run_on_drawn_exams_is_called_synthetic(make_run: MakeRun) -> None:
    run = make_run(more={"data": {"kind": "synthetic", "tissue": None}})
    drawn = (
        "All exams are synthetic: no patient, every one drawn from a seed. No figure here is a claim about"
    )
    assert drawn in outline(write_report(run)).text
    file = run / "summary.json"
    summary = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**summary, "data": {"tissue": {"volumes": {}}}}), "utf-8")
    assert "synthetic: real tissue with drawn findings. No figure here" in outline(write_report(run)).text
    del summary["data"]
    file.write_text(json.dumps(summary), "utf-8")
    assert "synthetic" not in outline(write_report(run)).text


@pytest.mark.parametrize(
    ("engine", "plan", "simulated"),
    [("local", False, True), ("flower", True, True), ("flower", False, False)],
)
def test_only_of_a_real_federation_is_it_said_that_exams_stayed(
    make_run: MakeRun, engine: str, plan: bool, simulated: bool
) -> None:
    run = make_run(more={"engine": engine})
    if plan:
        (run / "simulation.json").write_text("{}", "utf-8")
    text = outline(write_report(run)).text
    assert ("Simulated on one machine" in text) is simulated
    assert ("stayed where they are" in text) is not simulated


def test_what_left_begins_with_the_first_exchange_as_the_list_has_it(make_run: MakeRun) -> None:
    run = make_run()
    assert set(HELLO_IN_WORDS) == {*HELLO_WORDS, *HELLO_NUMBERS}
    told = (
        "Before the first round a site sent its name, the version of its program, the versions of its "
        "libraries, hashes of its frozen encoders, a hash of its settings, its exams in counts, notices in "
        "counts, the number of its training exams and the time of its clock."
    )
    assert told in outline(write_report(run)).text
    run_alone = json.loads((run / "summary.json").read_text("utf-8")) | {"engine": "alone"}
    (run / "summary.json").write_text(json.dumps(run_alone), "utf-8")
    assert "Before the first round" not in outline(write_report(run)).text


@pytest.mark.parametrize(
    ("preset", "overrides", "text", "tokens"),
    [
        ("climb-code", (), True, True),
        ("climb-code", ("objectives.coca=0",), False, True),
        ("climb-code", ("objectives.inverse_coca=0",), True, False),
        ("climb", (), False, False),
    ],
)
def test_reused_generators_are_warned_of_as_on_the_card(
    make_run: MakeRun, preset: str, overrides: tuple[str, ...], text: bool, tokens: bool
) -> None:
    read = outline(write_report(make_run(preset=preset, overrides=overrides))).text
    assert ("reports and can give report text away. Treat the weights as you would" in read) is text
    assert ("trained to predict slice tokens from reports" in read) is tokens


def test_one_of_a_thing_is_told_in_the_singular(make_run: MakeRun) -> None:
    text = write_report(make_run(num_rounds=1, sites=("Bonn",))).read_text("utf-8")
    for noun in ("site", "round"):
        assert f"<b>1</b><small>{noun}</small>" in text


def test_one_site_alone_has_no_server_and_nothing_that_left(make_run: MakeRun) -> None:
    read = outline(write_report(make_run(sites=("Köln",), more={"engine": "alone"})))
    assert "Nothing: this training sent nothing anywhere." in read.text
    assert "On the site's own exams" in read.text
    for word in ("server", "Rejected", " MB"):
        assert word not in read.text


def test_without_labelled_exams_there_are_no_curves_and_the_page_says_so(make_run: MakeRun) -> None:
    run = make_run(sites=("Köln",), more={"engine": "alone", "mean_auc": None})
    (run / "predictions.csv").write_text("uid,patient,finding,label,score\n", "utf-8")
    read = outline(write_report(run))
    assert "Undefined in every round: there were no labelled exams to measure it on." in read.text
    assert "ROC curve" not in read.text


def test_an_evaluation_has_a_page_without_a_history(make_run: MakeRun) -> None:
    place = {"measured_on": {"site": EVIL, "split": "test"}, "central_exams": 60, "central_notices": [EVIL]}
    run = make_run(more={**operating(), **place})
    for name in ("history.jsonl", "shared.safetensors"):
        (run / name).unlink()
    read = outline(write_evaluation_report(run))
    assert f"CLIMB: evaluation on {EVIL}" in read.text
    assert "script" not in read.names
    for text in ("Research use, not a medical device.", "AUC of each finding", "40 validation exams chose"):
        assert text in read.text
    assert "Adenose 0.125 0.250 0.375" in " ".join(read.text.split())
    assert "uid-" not in read.text


@pytest.mark.parametrize("name", ["config.yaml", "history.jsonl", "summary.json", "predictions.csv"])
def test_a_missing_file_is_named(make_run: MakeRun, name: str) -> None:
    run = make_run()
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}\S* cannot be read: No such file") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("history.jsonl", "{", "", r"history.jsonl line 1 is not JSON"),
        ("history.jsonl", '"loss": 3.0', '"loss": NaN', r"line 2 is not JSON: NaN is no number"),
        ("history.jsonl", '"seconds"', '"minutes"', r"line 1 is no round of a history"),
        ("history.jsonl", '"mean_auc": 0.5', '"mean_auc": "good"', r"line 1 "),
        ("summary.json", "{", "[", r"summary.json is not JSON"),
        ("summary.json", '"auc_table"', '"table"', r"summary.json is no summary of a run: 'auc_table'"),
        ("summary.json", '"positives"', '"positive"', r"summary.json is no summary of a run"),
        ("summary.json", '"config_hash": "', '"config_hash": "f', r"summary.json belongs to settings f"),
        ("predictions.csv", "uid,", "id,", r"predictions.csv must begin with the line uid,patient"),
        ("predictions.csv", "Adenose,0,", "Adenose,2,", r"label 0, 1 or empty"),
        ("predictions.csv", "Adenose,", "Fibroadenom,", r"line 3 has a finding twice"),
        ("predictions.csv", "uid-1,", "uid-0x,", r"must hold every finding of every exam"),
        ("config.yaml", "seed: 0", "sed: 0", r"config.yaml"),
    ],
)
def test_a_broken_file_gives_one_line(make_run: MakeRun, name: str, old: str, new: str, message: str) -> None:
    run = make_run()
    text = (run / name).read_text("utf-8")
    assert old in text
    (run / name).write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_a_damaged_weights_file_is_named(make_run: MakeRun) -> None:
    run = make_run()
    (run / "shared.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"shared.safetensors is damaged"):
        write_report(run)


def test_text_is_escaped_unless_it_was_made_as_markup() -> None:
    made = tag("b", {"title": '"<'}, "<i>", tag("i", None, "&"))
    assert made == '<b title="&quot;&lt;">&lt;i&gt;<i>&amp;</i></b>'
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_drawings_are_well_formed_and_put_values_where_they_belong() -> None:
    frame = Frame(width=100, height=100, left=10, right=10, top=10, bottom=10, x_range=(0, 4), y_range=(0, 1))
    assert (frame.x(0), frame.x(4), frame.y(0), frame.y(1)) == (10, 90, 90, 10)
    line = Line(name="a & b", style="c0", points=[(0, 0.0), (1, None), (2, 0.5), (4, 1.0)])
    drawn = ElementTree.fromstring(line_chart([line], frame, x_label="x", y_label="y", named=True))
    curve = drawn.find("g[@class='c0']")
    assert curve is not None
    assert [found.get("points") for found in curve.findall("polyline")] == ["50.0,50.0 90.0,10.0"]
    lone = curve.find("circle")
    assert lone is not None
    assert (lone.get("cx"), lone.get("cy")) == ("10.0", "90.0")
    assert ElementTree.fromstring(roc_chart([0, 0, 1], [0, 1, 1], name="<x>")).tag == "svg"


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=30))
def test_labels_never_overlap_and_keep_their_order(wanted: list[float]) -> None:
    places = spread(wanted, step=15, low=0, high=300)
    step = min(15, 300 / max(len(wanted) - 1, 1))
    ordered = sorted(places)
    assert all(b - a >= step - 1e-6 for a, b in pairwise(ordered))
    assert -1e-6 <= ordered[0] <= ordered[-1] <= 300 + 1e-6
    for i, a in enumerate(wanted):
        for j, b in enumerate(wanted):
            assert not (a < b and places[i] > places[j])


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.floats(-100, 100), st.floats(1e-3, 1e3), st.integers(2, 12))
def test_ticks_are_few_and_inside(low: float, width: float, most: int) -> None:
    found = ticks(low, low + width, most)
    assert 1 <= len(found) <= most
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in found)
    assert ticks(0.4, 1.0, 8) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
