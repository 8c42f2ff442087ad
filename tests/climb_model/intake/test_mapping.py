"""What a site's mapping file may hold, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from climb_model.intake.mapping import ReportMapping, SeriesMapping, SiteMapping, load_mapping
from configs.errors import SettingsError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "series: {}\nreports: {}\n"])
def test_without_content_our_own_rules_are_meant(tmp_path: Path, text: str | None) -> None:
    assert load_mapping(None if text is None else written(tmp_path, text)) == SiteMapping()


def test_both_sections_are_read(tmp_path: Path) -> None:
    text = """
series:
  T2: ["*M03*", t2_tse_tra]
  dynamic: ["UKX M07*"]
  pre_phases: 2
reports:
  accession: AnforderungsNr
  left: Linke Mamma
  right_values: [R, "2"]
"""
    assert load_mapping(written(tmp_path, text)) == SiteMapping(
        series=SeriesMapping(T2=("*M03*", "t2_tse_tra"), dynamic=("UKX M07*",), pre_phases=2),
        reports=ReportMapping(accession="AnforderungsNr", left="Linke Mamma", right_values=("R", "2")),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("serie: {}", "unknown section 'serie'; did you mean 'series'?"),
        ("series: {Prae: [a]}", "unknown key of series 'Prae'; did you mean 'Pre'?"),
        ("series: {T1: [a]}", "unknown key of series 'T1'"),
        ("reports: {accesion: a}", "did you mean 'accession'?"),
        ("series: [Pre]", "section series must hold keys, got list"),
        ("series:", "section series must hold keys, got NoneType"),
        ("- series", "wanted the sections series and reports, got list"),
        ("series", "wanted the sections series and reports, got str"),
        ("series: {Pre: t1*}", "series.Pre: wanted a list of texts"),
        ("series: {Pre: [[a]]}", "wanted a list of texts"),
        ("series: {pre_phases: two}", "series.pre_phases: wanted a whole number"),
        ("reports: {text: [a]}", "reports.text: wanted a text"),
        ("series: {pre_phases: 0}", "series.pre_phases must be >= 1, got 0"),
        ("series: {Pre: ['']}", "series.Pre: wanted a list of texts"),
        ("series: {T2: [a, '  ']}", "series.T2: wanted a list of texts"),
        ("series: {T2: [a, null]}", "series.T2: wanted a list of texts"),
        ("series:\n  T2: [*t2*]", "line 2 is not readable as YAML (a pattern that begins with * needs"),
        (b"series: {T2: [\xe4]}", "wanted text in UTF-8"),
        ("series: {T2: ['\0']}", "is not readable as YAML"),
        ("series: {pre_phases: yes}", "series.pre_phases: wanted a whole number"),
        ("reports: {left_values: [1]}", "texts such as 1, yes and no need quotes"),
        ("reports: {text: 1}", "reports.text: wanted a text; texts such as 1"),
        ("reports: {split: 2024-13-45}", "a value that YAML cannot read (a text that looks like a date"),
        ("series: {pre_phases: !!int two}", "a value that YAML cannot read"),
        ("reports: {text: !!timestamp x}", "a value that YAML cannot read"),
        ("reports: {text: !!bool x}", "a value that YAML cannot read"),
        ("series: " + "[" * 1000, "got one nested too deeply"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_mapping(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: No such file"):
        load_mapping(tmp_path / "none.yaml")
