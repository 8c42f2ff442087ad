"""The model card: true to its run, silent about patients, closed to others' markup, and its program runs."""

from __future__ import annotations

import json
import re
from datetime import date
from html import unescape
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from climb_model.made_by import UNKNOWN, made_by
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.report.card import model_card, write_card
from climb_model.report.card_model import split_parameters
from climb_model.report.markdown import WIDTH, block, bullets, table, words, wrapped
from climb_model.results import ALONE, NOT_MEASURED, printable
from climb_model.runs import RoundRecord, RunError, RunFolder, SiteRound
from climb_model.sharing import shared_state
from configs.keys import known_keys
from configs.load import load_settings, settings_hash
from configs.schema import Settings

EVIL = "x\n# Free of bias <script>alert(1)</script> ![i](https://evil.example) | [a](b) `c` **d** __e__ @all"
HTML = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def row(auc: float | None, low: float | None, high: float | None, positives: int) -> dict[str, Any]:
    return {"auc": auc, "ci_low": low, "ci_high": high, "positives": positives, "negatives": 20 - positives}


def site_round(steps: int = 2, *, sent: int = 500) -> SiteRound:
    return SiteRound(exams=6, steps=steps, loss=1.0, seconds=1.0, bytes_up=sent, bytes_down=500)


def a_run(*overrides: str, preset: str = "debug", **more: Any) -> tuple[dict[str, Any], Settings]:
    """Summary and settings of a run of two hospitals, Bonn with 6 exams and Aachen with 18."""
    settings = load_settings(preset, overrides)
    shared, _ = split_parameters(settings)
    summary: dict[str, Any] = {
        "study": "first",
        "version": "9.8.7",
        "date": "2031-02-03",
        "rounds": 2,
        "sites": 2,
        "exams": {"Aachen": 18, "Bonn": 6},
        "notices": {"Bonn": ["3 of 5210 report tokens unknown"]},
        "central_exams": 20,
        "central_notices": ["2 rows or folders left out"],
        "mean_auc": 0.75,
        "mean_auc_ci_low": 0.6,
        "mean_auc_ci_high": 0.9,
        "auc_table": {"Zyste": row(0.8, 0.75, 0.85, 9), "Karzinom": row(0.7, 0.45, 0.72, 3)},
        "shared_tensors": len(shared),
        "shared_parameters": sum(prod(shape) for shape in shared.values()),
        "seconds": 3.0,
        "engine": "flower",
        "config_hash": settings_hash(settings),
        "fingerprint": {"vision": "aa11", "text": "bb22", "tokenizer": "cc33", "preprocessing": "dd44"},
    }
    return {**summary, **more}, settings


def history(**rejected: tuple[dict[str, str], ...]) -> list[RoundRecord]:
    before = RoundRecord(
        round=0,
        seconds=1.0,
        global_step=0,
        mean_auc=0.51,
        auc={"Zyste": 0.52, "Karzinom": 0.5},
        rejected=rejected.get("start", ()),
    )
    first = RoundRecord(
        round=1, seconds=1.0, global_step=2, sites={"Aachen": site_round(), "Bonn": site_round()}
    )
    last = RoundRecord(
        round=2,
        seconds=1.0,
        global_step=4,
        sites={"Aachen": site_round(3)},
        mean_auc=0.75,
        rejected=rejected.get("last", ()),
    )
    return [before, first, last]


def card_of(*overrides: str, preset: str = "debug", **more: Any) -> str:
    return model_card(*a_run(*overrides, preset=preset, **more), history())


def section(card: str, title: str) -> str:
    """A section with each entry of a list on one line."""
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0].replace("\n  ", " ")


def cells(text: str, first: str) -> list[str]:
    """The table line that begins with this cell."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_card_has_the_sections_of_model_cards_and_the_two_added_ones() -> None:
    assert re.findall(r"^## (.*)$", card_of(), re.MULTILINE) == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
        "How to load it",
        "How to cite it",
    ]


def test_the_hub_reads_the_header_and_finds_no_licence_in_it() -> None:
    read = ModelCard(card_of()).data.to_dict()
    assert read["license"] == "other"
    assert read["license_name"] == "not-chosen-yet"
    assert yaml.safe_load(card_of().split("---\n")[1]) == read
    assert "The coordinator must choose one" in section(card_of(), "Model details")


def test_it_says_what_the_run_was() -> None:
    summary, settings = a_run("training.batch_size=3")
    details = section(model_card(summary, settings, history()), "Model details")
    assert "climb-federated 9.8.7, on 2031-02-03" in details
    assert f"Preset: debug, seed 0. Hash of all settings: {settings_hash(settings)}." in details
    assert "clip, weight 1: contrast" in details
    assert "coca: left out" in details
    assert f"{summary['shared_tensors']} tensors, {summary['shared_parameters']:,} float32" in details
    assert "training.batch_size=3" in details.splitlines()
    assert "warmup" not in details
    assert cells(details, "vision") == ["vision", "builtin:filters", "aa11"]
    assert cells(details, "text") == ["text", "builtin:german (embeddings)", "bb22"]


def test_a_preset_without_changes_is_told_as_such() -> None:
    assert "As preset debug says, without a change." in card_of()


@pytest.mark.parametrize("preset", ["debug", "climb", "climb-code"])
def test_the_parts_of_the_table_are_the_whole_model(preset: str) -> None:
    summary, settings = a_run(preset=preset)
    text = section(model_card(summary, settings, history()), "Model details")
    lines = [
        line.strip("|").split("|") for line in text.splitlines() if re.search(r"\| (shared|stays)", line)
    ]
    numbers = {True: 0, False: 0}
    for _, where, _, count in lines:
        numbers[where.strip() == "shared"] += int(count.replace(",", ""))
    everything = sum(value.numel() for value in build_model(settings).parameters() if value.requires_grad)
    assert numbers[True] == summary["shared_parameters"]
    assert numbers[True] + numbers[False] == everything


def test_tensors_of_another_version_of_the_program_are_not_listed() -> None:
    details = section(card_of(shared_tensors=3), "Model details")
    assert "builds other tensors" in details
    assert "| part | tensors" not in details


def test_sites_are_numbered_by_their_exams_and_told_in_counts() -> None:
    card = card_of()
    training = section(card, "Training data")
    assert "2 sites with 24 training exams" in training
    assert "2 rounds, 4 global steps" in training
    assert cells(training, "site 1") == ["site 1", "18", "2", "5"]
    assert cells(training, "site 2") == ["site 2", "6", "1", "2"]
    assert "site 2: 3 of 5210 report tokens unknown." in training
    assert "20 exams with labels (split test), the server's own exams." in section(card, "Evaluation data")
    assert "2 rows or folders left out." in section(card, "Evaluation data")


def test_no_site_is_named_unless_it_is_asked_for() -> None:
    comparison = {"best_site": {"name": "Bonn", "mean_auc": 0.6}, "alone": {"Bonn": 0.6, "Aachen": 0.5}}
    summary, settings = a_run(comparison=comparison)
    rejected = {"start": ({"site": "Kiel", "reason": "site 'Kiel' differs"},)}
    card = model_card(summary, settings, history(**rejected))
    assert not re.search("Aachen|Bonn|Kiel", card)
    assert "trained alone for the same steps (site 2): 0.600" in card
    named = model_card(summary, settings, history(**rejected), site_names=True)
    assert cells(section(named, "Training data"), "Bonn") == ["Bonn", "6", "1", "2"]
    assert "trained alone for the same steps (Bonn): 0.600" in named
    assert "what their admins named them" in named


def test_a_notice_that_is_no_count_is_only_counted() -> None:
    notices = {
        "Bonn": ["1 exams with unusable volumes left out", "/home/a", "0012_left", "Frau Müller, 3 mal"]
    }
    training = section(card_of(notices=notices), "Training data")
    assert "site 2: 1 exams with unusable volumes left out." in training
    assert "site 2: 3 further notices, not shown here." in training
    assert not re.search("home|0012|Müller", training)


def test_results_stand_beside_those_before_training() -> None:
    results = section(card_of(), "Quantitative analyses")
    assert cells(results, "Zyste") == ["Zyste", "0.520", "0.800", "[0.750, 0.850]", "9", "11"]
    assert cells(results, "Karzinom") == ["Karzinom", "0.500", "0.700", "[0.450, 0.720]", "3", "17"]
    assert cells(results, "mean") == ["mean", "0.510", "0.750", "[0.600, 0.900]", "", ""]
    assert "Undefined" not in results
    assert "Held against" not in results


def test_an_undefined_finding_is_named_and_was_never_measured() -> None:
    card = card_of(auc_table={"Zyste": row(0.8, 0.7, 0.9, 9), "Karzinom": row(None, None, None, 0)})
    results = section(card, "Quantitative analyses")
    assert cells(results, "Karzinom")[2:4] == ["undefined", ""]
    assert cells(results, "mean of the defined")[2] == "0.750"
    assert "Undefined, because no exam has it or none is without it: Karzinom." in results
    assert "without a negative exam: Karzinom (0 positive)" in section(card, "Caveats and recommendations")


def test_a_run_that_measured_nothing_says_so() -> None:
    nothing = dict.fromkeys(("mean_auc", "mean_auc_ci_low", "mean_auc_ci_high"))
    unknown = {"Zyste": row(None, None, None, 0) | {"negatives": 0}}
    summary, settings = a_run(auc_table=unknown, central_exams=0, central_notices=[], **nothing)
    summary |= {"engine": ALONE, "exams": {"Aachen": 18}, "notices": {}}
    summary |= {"measured_on": None, "operating": {"Zyste": {}}, "validation_exams": 0}
    card = model_card(summary, settings, [])
    assert "Calibration" not in card
    assert "None: nothing was measured." in section(card, "Evaluation data")
    results = section(card, "Quantitative analyses")
    assert " ".join(results.split()) == f"After 2 rounds: {NOT_MEASURED}."
    caveats = section(card, "Caveats and recommendations")
    assert "Never measured: whether the model learned anything is unknown." in caveats
    assert not re.search("Zyste|easured on one|easured at one", caveats)
    assert "easured on one" in section(card_of(), "Caveats and recommendations")
    assert cells(section(card, "Training data"), "the site") == ["the site", "18", "0", "0"]


def test_the_comparison_is_told_if_the_run_has_one() -> None:
    held = {"best_site": {"name": "Aachen", "mean_auc": None}, "supervised_ceiling": 0.93}
    results = section(card_of(comparison=held), "Quantitative analyses")
    assert "trained alone for the same steps (site 1): undefined" in results
    assert "supervised ceiling, trained on labels of all sites: 0.930" in results


def test_calibration_and_thresholds_are_told_if_the_run_has_them() -> None:
    known = {
        "brier": 0.1234, "calibration_error": 0.05, "threshold": 0.5, "sensitivity": 0.75, "specificity": 0.9,
    }  # fmt: skip
    none = {**known, "threshold": None, "sensitivity": None, "specificity": None}
    more = {"operating_specificity": 0.9, "validation_exams": 12}
    results = section(
        card_of(operating={"Zyste": known, "Karzinom": none}, **more), "Quantitative analyses"
    ).split("Calibration and thresholds.")[1]
    assert "the smallest of specificity 0.90 on 12 validation exams" in results
    assert cells(results, "Zyste") == ["Zyste", "0.500", "0.750", "0.900", "0.123", "0.050"]
    assert cells(results, "Karzinom") == ["Karzinom", "-", "-", "-", "0.123", "0.050"]
    without = card_of(operating={"Zyste": none}, operating_specificity=0.9, validation_exams=0)
    assert "No validation exams beside the reported ones: no thresholds." in without
    assert "Calibration" not in card_of()


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.60, 0.79, ()),
        (0.60, 0.81, ("wider than 0.2",)),
        (0.45, 0.60, ("includes 0.5",)),
        (0.50, 0.60, ("includes 0.5",)),
        (0.30, 0.45, ("below 0.5",)),
        (0.40, 0.70, ("wider than 0.2", "includes 0.5")),
        (None, None, ("AUC without an interval",)),
    ],
)
def test_findings_whose_interval_leaves_much_open_are_named(
    low: float | None, high: float | None, told: tuple[str, ...]
) -> None:
    table = {"Zyste": row(0.6, low, high, 4), "Karzinom": row(0.9, 0.85, 0.95, 9)}
    caveats = section(card_of(auc_table=table), "Caveats and recommendations")
    named = [line for line in caveats.splitlines() if "Zyste (4 positive)" in line]
    assert len(named) == len(told)
    assert all(words in line for words, line in zip(told, named, strict=True))
    assert "Karzinom" not in caveats


@pytest.mark.parametrize(
    ("low", "high", "before", "told"),
    [
        (0.6, 0.9, 0.51, []),
        (0.4, 0.9, 0.3, ["may be guessing"]),
        (0.6, 0.9, 0.7, ["does not show that it learned"]),
        (0.6, 0.9, None, []),
        (None, None, 0.5, []),
    ],
)
def test_a_run_that_does_not_show_that_it_learned_says_so(
    low: float | None, high: float | None, before: float | None, told: list[str]
) -> None:
    summary, settings = a_run(mean_auc_ci_low=low, mean_auc_ci_high=high)
    start = RoundRecord(round=0, seconds=1.0, global_step=0, mean_auc=before)
    caveats = section(model_card(summary, settings, [start]), "Caveats and recommendations")
    assert [
        sentence for sentence in ("may be guessing", "does not show that it learned") if sentence in caveats
    ] == told


def test_rejected_sites_and_replies_are_counted() -> None:
    refused = ({"site": "Kiel", "reason": "no /data/kiel"},)
    dropped = ({"site": "Bonn", "reason": "not finite"}, {"site": "Kiel", "reason": "late"})
    card = model_card(*a_run(), history(start=refused, last=dropped))
    caveats = section(card, "Caveats and recommendations")
    assert "1 site asked to take part and was not admitted" in caveats
    assert "left out of the average after the start: 2 in round 2." in caveats
    assert "not finite" not in card
    assert "kiel" not in card.lower()
    assert "left out of the average" not in section(card_of(), "Caveats and recommendations")


def test_only_a_run_that_knows_it_calls_its_exams_synthetic() -> None:
    drawn = card_of(data={"kind": "synthetic", "tissue": None})
    assert "no patient, all drawn from a seed" in section(drawn, "Evaluation data")
    assert "synthetic: no figure here is a claim" in section(drawn, "Caveats and recommendations")
    assert "real tissue with drawn findings" in card_of(data={"tissue": {"volumes": {}}})
    assert "synthetic" not in card_of()


def privacy_of(preset: str, *overrides: str) -> str:
    return section(card_of(*overrides, preset=preset), "Ethical considerations")


def test_reused_generators_can_give_report_text_away() -> None:
    can = "itself trained to write reports and can give report text away"
    assert can in privacy_of("climb-code")
    assert "predict slice tokens from reports, and can give" in privacy_of("climb-code")
    assert can not in privacy_of("climb-code", "objectives.coca=0")
    assert can not in privacy_of("climb")
    assert can not in privacy_of("debug")


def test_separate_generators_stay_and_a_model_without_any_says_so() -> None:
    assert "stays at each site and is not in the file" in privacy_of("climb")
    assert "No part of the model was trained to write reports" in privacy_of("debug")


def test_privacy_is_told_as_the_list_of_what_leaves_has_it() -> None:
    told = privacy_of("debug")
    assert "Images and reports did not leave the sites" in told
    assert "`num-examples`, `num-steps`, `loss`, `seconds`" in told
    assert "no formal privacy guarantee" in told
    assert "on one machine" not in told


def test_a_run_in_which_nothing_was_sent_says_so() -> None:
    alone = RoundRecord(round=1, seconds=1.0, global_step=2, sites={"Bonn": site_round(sent=0)})
    told = section(model_card(*a_run(), [alone]), "Ethical considerations")
    assert "No site sent anything while it trained." in told
    assert "did not leave" not in told


def test_one_site_alone_is_told_to_be_measured_on_its_own_exams() -> None:
    card = card_of(engine=ALONE, measured_on={"site": "Bonn", "split": "val"})
    assert "20 exams with labels (split val), the site's own exams." in section(card, "Evaluation data")
    assert "Bonn" not in card
    assert "Trained and measured at one site" in section(card, "Caveats and recommendations")
    assert "at one site" not in card_of()


@pytest.mark.parametrize("site_names", [False, True])
def test_the_card_of_one_site_alone_knows_no_coordinator_and_no_other_sites(site_names: bool) -> None:
    sites = {"Bonn": site_round(sent=0)}
    done = [RoundRecord(round=1, seconds=1.0, global_step=2, sites=sites)]
    one = {"engine": ALONE, "exams": {"Bonn": 6}, "sites": 1}
    summary, settings = a_run("objectives.coca=1", preset="climb", **one)
    card = model_card(summary, settings, done, site_names=site_names)
    assert not re.search(r"oordinator|numbered|\beach site|\bsites\b|site 1\b|No site", card)
    training = section(card, "Training data")
    label = "Bonn" if site_names else "the site"
    assert cells(training, label) == [label, "6", "1", "2"]
    assert ("can have it written here: `climb-server card" in training) is not site_names
    assert "The site must choose one before" in section(card, "Model details")


def test_what_stays_at_a_site_is_counted_and_untrained_after_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No other tensor is trained" in section(card_of(), "Model details")
    assert "untrained" not in section(card_of(), "How to load it")

    def with_more(settings: Settings) -> torch.nn.Module:
        model = build_model(settings)
        model.add_module("decoder", torch.nn.Linear(2, 3))
        model.add_module("table", torch.nn.Linear(5, 5).requires_grad_(False))
        return model

    monkeypatch.setattr("climb_model.report.card_model.build_model", with_more)
    details = section(card_of(), "Model details")
    assert "2 further trained tensors (9 numbers) stay at each site" in details
    assert cells(details, "decoder") == ["decoder", "stays at the site", "2", "9"]
    assert "| table " not in details
    assert "untrained in this model" in section(card_of(), "How to load it")


def test_no_setting_is_of_the_differential_privacy_that_the_card_denies() -> None:
    """Whoever adds it must teach the card to tell it."""
    assert not [key for key in known_keys() if re.search("privacy|epsilon|noise_multiplier", key)]


def test_the_words_of_others_stay_words() -> None:
    summary, settings = a_run(
        study=EVIL,
        exams={EVIL: 18, "www.evil.example": 6},
        notices={EVIL: [EVIL]},
        central_notices=[EVIL],
        auc_table={EVIL: row(0.7, 0.4, 0.72, 3), "- 1. y": row(None, None, None, 0)},
        operating={EVIL: {}},
        comparison={"best_site": {"name": EVIL, "mean_auc": 0.6}},
        fingerprint={EVIL: EVIL},
        version=EVIL,
        date=EVIL,
        engine=EVIL,
    )
    card = model_card(summary, settings, history(), site_names=True)
    safe, plain = HTML.render(card.split("---\n", 2)[2]), HTML.render(card_of().split("---\n", 2)[2])
    assert re.findall(r"<h\d", safe) == re.findall(r"<h\d", plain)
    assert not re.search(r"<(script|img|a)\b", safe)
    assert "<script" not in card
    assert safe.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8
    assert "://" not in card
    assert "www." not in card
    assert "@all" not in card
    assert safe.count("<em>") == plain.count("<em>") == 0
    assert "<code>c</code>" not in safe


def test_settings_cannot_leave_their_block() -> None:
    finding = '"``` <b>"'
    card = card_of(f"evaluation.findings=[{finding}, Zyste]", auc_table={"Zyste": row(0.8, 0.7, 0.9, 9)})
    assert "<b>" not in HTML.render(card.split("---\n", 2)[2])


@given(st.text(max_size=40))
@tries(deadline=None, derandomize=True)
def test_a_table_cell_shows_exactly_its_words(text: str) -> None:
    html = HTML.render(table(["a", "b"], [[words(text), "end"]]))
    (shown,) = re.findall(r"<tr>\n<td>(.*)</td>\n<td style=\"text-align:right\">end</td>", html)
    assert "<" not in shown
    assert unescape(shown).split() == printable(text).split()


@given(st.text(alphabet="ab1.-+=#>|*_ `\n", max_size=400))
@tries(deadline=None, derandomize=True)
def test_a_long_entry_is_one_entry_and_its_words_stay(text: str) -> None:
    html = HTML.render(bullets([f"begins {words(text)} ends"]))
    (shown,) = re.findall(r"^<ul>\n<li>(.*)</li>\n</ul>\n$", html, re.DOTALL)
    assert "<" not in shown
    assert unescape(shown).split() == f"begins {printable(text)} ends".split()


def test_long_lines_are_broken_before_words_only() -> None:
    line = wrapped("- " + "word 1. " * 30, indent="  ")
    assert all(len(piece) <= WIDTH for piece in line.splitlines())
    assert all(piece.startswith("  word 1.") for piece in line.splitlines()[1:])
    assert wrapped("x" * 200) == "x" * 200


def test_a_block_refuses_a_line_that_could_close_it() -> None:
    with pytest.raises(AssertionError):
        block(["```"])
    assert block(["a\n```"]) == "```text\na ```\n```"


def test_the_same_run_gives_the_same_card_but_for_the_date() -> None:
    assert card_of() == card_of()
    assert card_of().replace("2031-02-03", "2032-01-01") == card_of(date="2032-01-01")


def trained(settings: Settings) -> dict[str, torch.Tensor]:
    """Weights that no untrained model has."""
    return {name: value + 1 for name, value in shared_state(build_model(settings)).items()}


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run folder as a finished run leaves it, full of what a card must not tell."""
    folder = tmp_path / "PATHMARK" / "run"
    summary, settings = a_run("evaluation.findings=[Zyste, Karzinom]")
    run = RunFolder.create(folder, settings, "study")
    fingerprint = FrozenEncoders.load(settings, None).fingerprint
    run.write_shared(trained(settings), 2, fingerprint)
    labels = torch.tensor([[1.0, 0.0]]).double().numpy()
    run.write_predictions(["UIDMARK_left"], ["PATIENTMARK"], ["Zyste", "Karzinom"], labels, labels)
    run.write_history(history(last=({"site": "SITEMARK", "reason": "REASONMARK in /data/x"},)))
    (folder / "server.json").write_text(json.dumps({"data": "/data/PATHMARK"}))
    run.write_summary(summary)
    return run


def test_the_program_on_the_card_runs_and_gives_the_weights_of_the_run(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = write_card(finished).read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(finished.path)
    found: dict[str, Any] = {}
    exec(snippet, found)
    wanted, loaded = trained(finished.settings), shared_state(found["model"])
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[name], wanted[name]) for name in loaded)
    assert not found["model"].training
    assert found["frozen"].fingerprint == FrozenEncoders.load(finished.settings, None).fingerprint


def test_the_program_on_the_card_refuses_other_settings(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", write_card(finished).read_text("utf-8"), re.DOTALL)
    other = RunFolder.create(finished.path.parent / "other", load_settings("debug", ["seed=1"]), "study")
    other.write_shared(trained(other.settings), 2, FrozenEncoders.load(other.settings, None).fingerprint)
    monkeypatch.chdir(other.path)
    with pytest.raises(AssertionError):
        exec(snippet, {})


@pytest.mark.parametrize("site_names", [False, True])
def test_no_exam_patient_path_or_reason_is_on_the_card(finished: RunFolder, site_names: bool) -> None:
    card = write_card(finished, site_names=site_names).read_text("utf-8")
    assert not re.search("UIDMARK|PATIENTMARK|PATHMARK|REASONMARK", card)
    assert not re.search(r"(?<![\w.`<])/\w", card)


def test_a_run_that_has_not_ended_has_no_card(finished: RunFolder) -> None:
    (finished.path / "summary.json").unlink()
    with pytest.raises(RunError, match=r"has no summary\.json"):
        write_card(finished)
    assert not (finished.path / "model_card.md").exists()


def test_a_summary_without_version_and_date_gets_those_of_today(finished: RunFolder) -> None:
    summary = {key: value for key, value in a_run()[0].items() if key not in ("version", "date")}
    card = write_card(finished, summary).read_text("utf-8")
    made = made_by()
    assert f"climb-federated {made['version']}, on {made['date']}" in card
    assert made["version"] != UNKNOWN
    assert date.fromisoformat(made["date"])


def test_a_program_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("climb_model.made_by.PROGRAM", "no-such-distribution")
    assert made_by()["version"] == UNKNOWN
