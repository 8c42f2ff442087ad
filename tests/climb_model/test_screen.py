"""What a run shows: a live table in a terminal, plain lines without control codes elsewhere."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from climb_model.model.climb import build_model
from climb_model.results import operating_lines, result_lines
from climb_model.runs import RoundRecord, SiteRound
from climb_model.screen import LiveTable, header_lines, losses, sparkline
from climb_model.sharing import shared_spec
from configs.load import load_settings

ESCAPE = "\x1b"


def record(number: int, mean: float | None, rejected: tuple[dict[str, str], ...] = ()) -> RoundRecord:
    site = SiteRound(exams=10, steps=4, loss=3.25, seconds=1.0, bytes_up=2_000_000, bytes_down=1_500_000)
    return RoundRecord(
        round=number,
        seconds=12.34,
        global_step=4 * number,
        sites={"Köln": site, "Bonn": site} if number else {},
        mean_auc=mean,
        rejected=rejected,
    )


def summary(**more: object) -> dict[str, object]:
    row = {"auc": 0.8125, "ci_low": 0.7, "ci_high": 0.9, "positives": 30, "negatives": 170}
    empty = {"auc": None, "ci_low": None, "ci_high": None, "positives": 0, "negatives": 200}
    return {
        "mean_auc": 0.8125,
        "mean_auc_ci_low": 0.75,
        "mean_auc_ci_high": 0.875,
        "auc_table": {"Radiäre Narbe": row, "Zyste": empty},
        **more,
    }


def watch(*, live: bool, encoding: str = "utf-8") -> str:
    """Everything a short run prints."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, force_terminal=live, width=140, highlight=False)
    settings = load_settings("climb", ["federation.num_rounds=2"])
    with LiveTable(study="demo", console=console, live=live) as screen:
        screen.preparing("CENTRAL", 1, 2)
        screen.preparing("CENTRAL", 2, 2)
        screen.started(settings, {"Köln": 140, "Bonn": 70})
        screen.round_done(record(0, 0.5))
        for site in ("Köln", "Bonn"):
            for step in range(1, 5):
                screen.site_progress(site, 1, step, 4, 3.4)
        screen.round_done(record(1, 0.625, ({"site": "Ulm\x1b[31m\n", "reason": "sent [bold]NaN\r\n"},)))
        screen.round_done(record(2, None))
        screen.finished(summary())
    return raw.getvalue().decode(encoding)


def test_without_a_terminal_there_is_one_plain_line_a_round() -> None:
    text = watch(live=False)
    lines = text.splitlines()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert [line for line in lines if line.startswith("round ") and "rejected" not in line] == [
        "round 0 of 2: step 0, mean AUC 0.500, 12.3 s",
        "round 1 of 2: step 4, mean AUC 0.625 (+0.125), loss Köln 3.250  Bonn 3.250, "
        "4.0 MB up, 3.0 MB down over all sites, 12.3 s",
        "round 2 of 2: step 8, mean AUC undefined, loss Köln 3.250  Bonn 3.250, "
        "4.0 MB up, 3.0 MB down over all sites, 12.3 s",
    ]
    assert [line for line in lines if "slice tokens" in line] == [
        "site CENTRAL: slice tokens of 2 exams are ready"
    ]


def test_the_header_names_sites_exams_and_what_travels() -> None:
    settings = load_settings("climb", ["federation.num_rounds=2"])
    spec = shared_spec(build_model(settings))
    numbers = sum(math.prod(shape) for shape in spec.values())
    lines = header_lines(settings, {"Köln": 140, "Bonn": 70}, study="demo")
    assert lines == [
        "CLIMB: study demo, preset climb, seed 0, 2 rounds. Research use, not a medical device.",
        "2 sites with 210 training exams: Köln (140), Bonn (70)",
        f"what travels: {numbers:,} weights in {len(spec)} tensors, {4 * numbers / 1e6:.1f} MB for each "
        "site, round and direction; images and reports are not sent",
    ]


def test_a_site_that_trains_alone_is_told_that_nothing_travels() -> None:
    file = io.StringIO()
    site = SiteRound(exams=10, steps=4, loss=3.25, seconds=1.0, bytes_up=0, bytes_down=0)
    done = RoundRecord(round=1, seconds=12.34, global_step=4, sites={"Köln": site}, mean_auc=0.5)
    for live in (False, True):
        screen = LiveTable(console=Console(file=file, force_terminal=live, width=140), alone=True, live=live)
        screen.started(load_settings("debug"), {"Köln": 10})
        screen.round_done(done)
        screen.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert text.count("what travels: nothing; ") == 2
    assert " MB" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "round 1 of 2: step 4, mean AUC 0.500, loss Köln 3.250, 12.3 s" in lines
    assert "1/2 4 0.500 ▂ 12.3 Köln 3.250" in lines
    assert "round step mean AUC change s loss by site" in lines


def test_a_rejected_site_is_told_in_words_and_its_words_are_harmless() -> None:
    for live in (False, True):
        shown = [line for line in watch(live=live).splitlines() if "rejected" in line]
        assert len(shown) == 1
        assert "rejected: site Ulm [31m : sent [bold]NaN" in shown[0]


def test_a_terminal_shows_progress_inside_a_round_and_gets_its_cursor_back() -> None:
    text = watch(live=True)
    assert ESCAPE in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "round 1: site Bonn (2 of 2)" in plain
    assert "4/4 steps, loss 3.400" in plain
    assert "CENTRAL: slice tokens" in plain
    row = next(line for line in plain.splitlines() if line.strip().startswith("1/2"))
    head = next(line for line in plain.splitlines() if "loss by site" in line)
    assert (
        head.index("up / down MB, all sites") + len("up / down MB, all sites") == row.index("4.0 / 3.0") + 9
    )
    words = "1/2 4 0.625 +0.125 ▂▄ 4.0 / 3.0 12.3 Köln 3.250 Bonn 3.250"
    assert " ".join(row.split()) == words
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_cursor_comes_back_when_a_run_fails() -> None:
    file = io.StringIO()
    screen = LiveTable(console=Console(file=file, force_terminal=True, width=100), live=True)

    def fail() -> None:
        with screen:
            screen.site_progress("A", 1, 1, 4, 3.4)
            raise RuntimeError("the run fails")

    with pytest.raises(RuntimeError, match="the run fails"):
        fail()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_an_output_that_cannot_write_umlauts_still_gets_every_line() -> None:
    text = watch(live=False, encoding="ascii")
    assert "loss K?ln 3.250" in text
    assert "Radi?re Narbe" in text


def test_standard_output_that_is_no_terminal_gets_no_control_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = LiveTable()
    screen.site_progress("A", 1, 1, 4, 3.4)
    screen.round_done(record(1, 0.5))
    assert capsys.readouterr().out.startswith("round 1: step 4, mean AUC 0.500, loss")


def test_the_final_table_by_hand() -> None:
    more = {"comparison": {"supervised_ceiling": 0.93, "best_site": {"name": "Köln", "mean_auc": 0.7}}}
    assert result_lines(summary(**more)) == [
        "finding                     AUC   95 % interval    positive  negative",
        "---------------------------------------------------------------------",
        "Radiäre Narbe             0.812   [0.700, 0.900]         30       170",
        "Zyste                 undefined                           0       200",
        "---------------------------------------------------------------------",
        "mean of the defined       0.812   [0.750, 0.875]",
        "undefined, without positive or negative exams: Zyste",
        "best single site, trained alone for the same steps (Köln): 0.700",
        "supervised ceiling, trained on labels of all sites: 0.930",
        "Research use, not a medical device.",
    ]


def test_a_run_without_a_label_ends_with_one_line_instead_of_the_table() -> None:
    none = {"auc": None, "ci_low": None, "ci_high": None, "positives": 0, "negatives": 0}
    assert result_lines(summary(auc_table={"Zyste": none, "Karzinom": none}, mean_auc=None)) == [
        "not measured: no exam has a finding in findings.csv for the split that is measured",
        "Research use, not a medical device.",
    ]


def test_many_sites_are_told_as_a_range() -> None:
    sites = {
        f"site{i}": SiteRound(exams=1, steps=1, loss=float(i), seconds=1.0, bytes_up=1, bytes_down=1)
        for i in range(20)
    }
    many = RoundRecord(round=1, seconds=1.0, global_step=1, sites=sites)
    assert losses(many) == "0.000 to 19.000 at 20 sites"


def test_the_sparkline_runs_from_chance_to_one() -> None:
    assert sparkline([0.4, None, 1.0, 0.2, 0.7]) == "▁ █▁▄"


def test_what_was_left_out_is_told_below_the_table() -> None:
    told = summary(
        central_notices=["2 exams with unusable volumes left out"], notices={"Köln": ["3 of 9 unknown"]}
    )
    lines = result_lines(told)
    assert "the server's own exams: 2 exams with unusable volumes left out" in lines
    assert "site Köln: 3 of 9 unknown" in lines
    assert not any("left out" in line for line in result_lines(summary()))


def test_what_was_left_out_of_a_sites_own_exams_is_told_as_its_own() -> None:
    lines = result_lines(summary(engine="alone", central_notices=["1 exams with unusable volumes left out"]))
    assert "the site's own exams: 1 exams with unusable volumes left out" in lines


def test_calibration_and_thresholds_by_hand() -> None:
    row = {
        "brier": 0.25,
        "calibration_error": 0.125,
        "threshold": 0.5,
        "sensitivity": 1.0,
        "specificity": 0.875,
    }
    told = {"operating_specificity": 0.9, "operating": {"Zyste": row, "Karzinom": dict.fromkeys(row)}}
    assert operating_lines({**told, "validation_exams": 12}) == [
        "thresholds: the smallest of specificity 0.90 on 12 validation exams; "
        "what they do to the reported exams:",
        "finding       Brier  calibration error  threshold  sensitivity  specificity",
        "---------------------------------------------------------------------------",
        "Zyste         0.250              0.125      0.500        1.000        0.875",
        "Karzinom          -                  -          -            -            -",
    ]
    assert operating_lines({**told, "validation_exams": 0})[0] == (
        "no validation exams beside the reported ones: no thresholds"
    )
