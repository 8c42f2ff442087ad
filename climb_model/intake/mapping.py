"""A site's own naming: which series and which columns are what, from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

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


def load_mapping(path: Path | None) -> SiteMapping:
    """Read a mapping file; None gives the defaults.

    Raises:
        SettingsError: naming file, key, what was wanted and what came.
    """
    if path is None:
        return SiteMapping()
    try:
        content = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not readable as YAML"
        raise SettingsError(f"{path}: {reason}") from None
    raw: object = OmegaConf.to_container(content)
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: wanted the sections series and reports, got {type(raw).__name__}")
    sections = {"series": SeriesMapping, "reports": ReportMapping}
    for name, section in cast(dict[str, object], raw).items():
        if name not in sections:
            raise SettingsError(f"{path}: {_unknown('section', name, list(sections))}")
        _check_section(path, name, sections[name], section)
    try:
        return cast(
            SiteMapping, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SiteMapping), content))
        )
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise SettingsError(f"{path}: {key}: wanted another kind of value") from None


def _check_section(path: Path, name: str, kind: type, section: object) -> None:
    if not isinstance(section, dict):
        raise SettingsError(f"{path}: section {name} must hold keys, got {type(section).__name__}")
    known = [each.name for each in fields(kind)]
    for key in cast(dict[str, object], section):
        if key not in known:
            raise SettingsError(f"{path}: {_unknown(f'key of {name}', str(key), known)}")


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = nearest(name, known)
    hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(known)}"
    return f"unknown {what} '{name}'; {hint}"
