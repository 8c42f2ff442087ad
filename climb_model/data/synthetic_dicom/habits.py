"""How a virtual hospital's scanner, archive and radiology system write things down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

CENTRAL = "CENTRAL"
"""The hospital with a habit of its own; all others repeat every four."""


@dataclass(frozen=True, kw_only=True)
class Habit:
    """One hospital's way of exporting."""

    manufacturer: str
    model: str
    character_set: str
    dynamic: Literal["a series each", "one series", "multi-frame"]
    told_by: Literal["temporal position", "acquisition time"]
    """What tells the phases apart, beside the order in which they were acquired."""

    names: tuple[str, ...]
    """SeriesDescription of the first phase and of the later ones; `{n}` is the number of the later one."""

    t2_name: str
    num_posts: int
    t2_grid: Literal["same", "finer", "coarser", "sagittal"] = "same"
    """`same` and `sagittal` keep the drawn voxels; the others interpolate."""

    prone: bool = False
    """Slices turned by 180 degrees, as a viewer shows a patient who lies face down."""

    syntax: str = ""
    """Transfer syntax of compressed images; empty: nothing is compressed."""

    compressed: tuple[str, ...] = ("dynamic", "t2")

    stored: Literal["signed", "offset", "halves"] = "signed"
    """Signed numbers; unsigned with a RescaleIntercept; twice the number with RescaleSlope 0.5."""

    folders: Literal["dates", "numbers"]
    reports: Literal["columns", "rows", "one text"]
    """A column a breast, a row a breast, or one text for both."""

    excel: bool = False
    encoding: str = "utf-8"
    joined_by: Literal["accession", "patient"] = "accession"
    """What joins a report to its study, beside the date."""

    series: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The `series` section of the mapping file; empty: the import's own rules do."""


HABITS = (
    Habit(
        manufacturer="SIEMENS",
        model="MAGNETOM Avanto",
        character_set="ISO_IR 100",
        dynamic="a series each",
        told_by="acquisition time",
        names=("t1_fl3d_tra_dyn",),
        t2_name="t2_tse_tra",
        num_posts=2,
        folders="dates",
        reports="columns",
        encoding="cp1252",
    ),
    Habit(
        manufacturer="GE MEDICAL SYSTEMS",
        model="SIGNA Artist",
        character_set="ISO_IR 192",
        dynamic="one series",
        told_by="temporal position",
        names=("UKX M07 VIBRANT",),
        t2_name="UKX M03 ax",
        num_posts=2,
        t2_grid="finer",
        syntax=JPEGLosslessSV1,
        compressed=("t2",),
        stored="offset",
        folders="numbers",
        reports="rows",
        excel=True,
        series={"dynamic": ["UKX M07*"], "T2": ["UKX M03*"]},
    ),
    Habit(
        manufacturer="Philips Medical Systems",
        model="Ingenia",
        character_set="ISO_IR 100",
        dynamic="a series each",
        told_by="acquisition time",
        names=("T1w nativ", "T1 KM {n}"),
        t2_name="T2w TSE sag",
        num_posts=2,
        t2_grid="sagittal",
        syntax=JPEG2000Lossless,
        stored="halves",
        folders="dates",
        reports="one text",
    ),
    Habit(
        manufacturer="SIEMENS",
        model="MAGNETOM Skyra",
        character_set="ISO_IR 192",
        dynamic="one series",
        told_by="acquisition time",
        names=("Mamma Dynamik fl3d",),
        t2_name="T2 TIRM tra",
        num_posts=4,
        t2_grid="coarser",
        prone=True,
        syntax=JPEGLSLossless,
        folders="numbers",
        reports="columns",
        excel=True,
    ),
)

CENTRAL_HABIT = Habit(
    manufacturer="Philips Medical Systems",
    model="Achieva dStream",
    character_set="ISO_IR 192",
    dynamic="multi-frame",
    told_by="temporal position",
    names=("eTHRIVE dyn",),
    t2_name="T2W_TSE_tra",
    num_posts=2,
    syntax=RLELossless,
    stored="offset",
    folders="numbers",
    reports="one text",
    joined_by="patient",
)


def habits_of(names: list[str]) -> dict[str, Habit]:
    """Hospital to habit, in the order of the names."""
    others = [name for name in sorted(names) if name != CENTRAL]
    found = {name: HABITS[place % len(HABITS)] for place, name in enumerate(others)}
    return found | ({CENTRAL: CENTRAL_HABIT} if CENTRAL in names else {})
