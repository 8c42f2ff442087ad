"""A site's own naming: which series and which columns are what, from a YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import yaml

from configs.errors import SettingsError
from configs.keys import nearest


@dataclass(frozen=True, kw_only=True)
class SeriesMapping:
    """Patterns (`*`, `?`, any case) over series description and protocol name; empty: our own rules."""

    T2: tuple[str, ...] = ()
    Pre: tuple[str, ...] = ()
    Post: tuple[str, ...] = ()
    """Series with post-contrast phases only."""

    dynamic: tuple[str, ...] = ()
    """Series that hold the phase before contrast and those after it."""

    ignore: tuple[str, ...] = ()
    """Series never taken, whatever else fits."""

    pre_phases: int = 1
    """How many phases of the dynamic series were acquired before contrast; the last of them is Pre."""


@dataclass(frozen=True, kw_only=True)
class ReportMapping:
    """Columns of the report table; empty: there is none."""

    accession: str = ""
    """Column of the accession number as the DICOM files have it."""

    patient: str = ""
    """Column of the patient number, where there is no accession number."""

    date: str = ""
    """Column of the study date; needed where a patient number has several studies."""

    text: str = ""
    """One text for both breasts; with `side`, the text of that row's breast."""

    left: str = ""
    right: str = ""
    """A column a breast."""

    side: str = ""
    """Column that says which breast a row is about."""

    left_values: tuple[str, ...] = ("L", "left", "links", "li")
    right_values: tuple[str, ...] = ("R", "right", "rechts", "re")
    names: tuple[str, ...] = ()
    """Columns of persons' names, to be redacted in the text."""

    split: str = ""
    """Column with train, val or test; else patients are split by a keyed hash."""

    lesion: str = ""
    lesion_left: str = ""
    lesion_right: str = ""
    """ODELIA's class: 0 none, 1 benign, 2 malignant. `lesion` goes with `side`."""

    sheet: str = ""
    """Sheet of an Excel file; else the first."""

    encoding: str = "utf-8"
    """Of a CSV file, such as cp1252."""


@dataclass(frozen=True, kw_only=True)
class SiteMapping:
    """The whole file."""

    series: SeriesMapping = field(default_factory=SeriesMapping)
    reports: ReportMapping = field(default_factory=ReportMapping)


_SECTIONS = ("series", "reports")


def load_mapping(path: Path | None) -> SiteMapping:
    """Read a mapping file; None gives the defaults.

    Raises:
        SettingsError: naming file, key, what was wanted and what came.
    """
    if path is None:
        return SiteMapping()
    raw = _read(path)
    for name in raw:
        if name not in _SECTIONS:
            raise SettingsError(f"{path}: {_unknown('section', str(name), _SECTIONS)}")
    series = SeriesMapping(**_checked(path, raw, "series", SeriesMapping))
    reports = ReportMapping(**_checked(path, raw, "reports", ReportMapping))
    if series.pre_phases < 1:
        raise SettingsError(f"{path}: series.pre_phases must be >= 1, got {series.pre_phases}")
    return SiteMapping(series=series, reports=reports)


def _read(path: Path) -> dict[str, object]:
    """Sections to their content, neither checked."""
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: wanted text in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = "a pattern that begins with * needs quotes"
        raise SettingsError(f"{path}: line {line} is not readable as YAML ({hint})") from None
    except yaml.YAMLError:
        raise SettingsError(f"{path}: is not readable as YAML") from None
    except (ValueError, LookupError, AttributeError):  # what becomes of a value that only looks like its kind
        hint = "a text that looks like a date or a number needs quotes"
        raise SettingsError(f"{path}: holds a value that YAML cannot read ({hint})") from None
    except RecursionError:
        raise SettingsError(f"{path}: wanted two sections of keys, got one nested too deeply") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: wanted the sections series and reports, got {type(content).__name__}")
    return cast(dict[str, object], content)


def _checked(path: Path, raw: dict[str, object], name: str, kind: type) -> dict[str, Any]:
    """The values of a section, each of its field's type."""
    section = raw.get(name, {})
    if not isinstance(section, dict):
        raise SettingsError(f"{path}: section {name} must hold keys, got {type(section).__name__}")
    types = {each.name: str(each.type) for each in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in cast(dict[str, object], section).items():
        if key not in types:
            raise SettingsError(f"{path}: {_unknown(f'key of {name}', str(key), types)}")
        if types[key] == "int":
            fits, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        elif types[key] == "str":
            fits, wanted = isinstance(value, str), "a text"
        else:
            items = cast(list[object], value) if isinstance(value, list) else [None]
            fits, wanted = all(isinstance(item, str) and item.strip() for item in items), "a list of texts"
            value = tuple(items)
        if not fits:
            hint = "; texts such as 1, yes and no need quotes" if wanted != "a whole number" else ""
            raise SettingsError(f"{path}: {name}.{key}: wanted {wanted}{hint}")
        values[key] = value
    return values


def _unknown(what: str, name: str, names: Iterable[str]) -> str:
    close = nearest(name, names)
    hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(names)}"
    return f"unknown {what} '{name}'; {hint}"
