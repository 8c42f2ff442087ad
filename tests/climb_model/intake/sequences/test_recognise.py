"""Which volumes of a study become Pre, Post_1..n and T2, and why the others do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.sequences.recognise import Named, name_stacks
from climb_model.intake.sequences.series_words import words
from climb_model.intake.study import Frame, Geometry, NamingError, Series, SeriesError, Stack, Study

RULES = SeriesMapping()
SLICES = 8
SECRET = "Musterfrau"
START_S = 36_000.0
AXIAL = np.diag([-1.0, -1.0, 2.0, 1.0])
SAGITTAL = np.array([[0, 0, -1.0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])


def frame(number: int, echo: float | None, kind: tuple[str, ...], time: float | None) -> Frame:
    return Frame(
        path=Path(f"/{SECRET}/{number}"),
        index=None,
        instance=f"1.2.{number}",
        sop_class="1.2.840.10008.5.1.4.1.1.4",
        transfer_syntax="1.2.840.10008.1.2.1",
        modality="MR",
        image_type=kind,
        rows=16,
        columns=16,
        samples=1,
        photometric="MONOCHROME2",
        bits_allocated=16,
        position=(0.0, 0.0, 2.0 * number),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing=(1.0, 1.0),
        slice_spacing_mm=None,
        thickness_mm=2.0,
        slope=1.0,
        intercept=0.0,
        temporal_position=None,
        acquisition_number=None,
        acquired_s=time,
        content_s=None,
        trigger_ms=None,
        echo_ms=echo,
        b_value=None,
        stack_id="",
    )


def volumes(
    description: str,
    *times: float | None,
    echo: float | None = None,
    contrast: bool = False,
    affine: np.ndarray = AXIAL,
    slices: int = SLICES,
    kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M"),
    protocol: str = "",
    laterality: str = "",
) -> list[Stack]:
    """The phases of one series, each acquired at one of the times in minutes."""
    seconds = [None if time is None else START_S + 60 * time for time in times or (0.0,)]
    frames = tuple(frame(number, echo, kind, seconds[0]) for number in range(slices))
    series = Series(
        uid=f"1.2.{description}.{protocol}.{times}.{kind}.{laterality}",
        number=None,
        description=description,
        protocol=protocol,
        modality="MR",
        laterality=laterality,
        contrast=contrast,
        frames=frames,
    )
    geometry = Geometry(
        affine=affine, shape=(slices, 16, 16), spacing_mm=(2.0, 1.0, 1.0), spacing_from="positions"
    )
    return [
        Stack(
            series=series,
            frames=frames,
            geometry=geometry,
            time_s=time,
            time_from="" if time is None else "acquisition time",
            phase=number,
            num_phases=len(seconds),
        )
        for number, time in enumerate(seconds, start=1)
    ]


def study(stacks: list[Stack]) -> Study:
    series = {stack.series.uid: stack.series for stack in stacks}
    return Study(
        uid="1.2",
        accession="A4711",
        patient="0815",
        date="20240102",
        age_days=None,
        names=frozenset({SECRET}),
        vendor="SIEMENS",
        field_strength_t=1.5,
        series=tuple(series.values()),
    )


def name(*groups: list[Stack], mapping: SeriesMapping = RULES) -> Named:
    stacks = [stack for group in groups for stack in group]
    named = name_stacks(study(stacks), stacks, mapping)
    taken = {id(stack) for stack in named.sequences.values()}
    listed = sum(out.num_files for out in named.left_out if out.path is not None)
    lost = {(stack.series.uid) for stack in stacks if id(stack) not in taken}
    assert bool(listed) == bool(lost)
    told = repr((named.how, [out.reason for out in named.left_out], named.laterality))
    for stack in stacks:
        assert not stack.series.description or stack.series.description not in told
    return named


def refusal(*groups: list[Stack], mapping: SeriesMapping = RULES) -> str:
    with pytest.raises(SeriesError) as caught:
        name(*groups, mapping=mapping)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def minutes(named: Named) -> dict[str, float | None]:
    return {
        name: None if stack.time_s is None else (stack.time_s - START_S) / 60
        for name, stack in named.sequences.items()
    }


def reasons(named: Named) -> list[str]:
    return sorted(out.reason for out in named.left_out)


DYNAMIC = volumes("t1_fl3d_tra_dyn_1+5", 10, 12, 13, 14, 15, 16, contrast=True)
T2 = volumes("t2_tse_tra", 5, echo=90.0)


# Layouts of sites and vendors


@pytest.mark.parametrize(
    "names",
    [
        ("t1_fl3d_tra_dynaVIEWS_spair_1+2", "t2_tirm_tra_bilat"),
        ("Ax VIBRANT MULTIPHASE", "Ax T2 FSE frFSE"),
        ("dyn eTHRIVE", "T2W_TSE_ax"),
        ("Mamma Dynamik KM", "T2 Blade transversal"),
        ("T1w vibe Dyn. 1+2", "STIR tra"),
        ("sDYN_eTHRIVE_SENSE", "sT2W_SPAIR"),
        ("BLISS_AUTO", "WATER: Ax T2 IDEAL"),
        ("T1 dinamica con contrasto", "T2 TSE assiale"),
    ],
)
def test_one_series_with_phases_and_t2_at_many_sites(names: tuple[str, str]) -> None:
    named = name(volumes(names[0], 1, 2, 3), volumes(names[1], 0, echo=80.0))
    assert minutes(named) == {"Pre": 1, "Post_1": 2, "Post_2": 3, "T2": 0}
    assert named.how["Post_1"] == "phase 2 of 3: the dynamic series"
    assert named.how["T2"].startswith("description rule t2, axial")
    assert named.left_out == ()


@pytest.mark.parametrize(
    "names",
    [
        ("t1_fl3d_dyn", "t1_fl3d_dyn", "t1_fl3d_dyn"),
        ("t1_fl3d_tra_pre", "t1_fl3d_tra_post1", "t1_fl3d_tra_post2"),
        ("T1 nativ", "T1 KM 1", "T1 KM 2"),
        ("Ph1/Ax VIBRANT", "Ph2/Ax VIBRANT", "Ph3/Ax VIBRANT"),
        ("Phase 1 LAVA", "Phase 2 LAVA", "Phase 3 LAVA"),
        ("T1 vor KM", "T1 nach KM 1 min", "T1 nach KM 3 min"),
        ("t1 flash ohne KM", "t1 flash +C 1", "t1 flash +C 2"),
        ("T1 EG sans inj", "T1 EG inj 1", "T1 EG inj 2"),
    ],
)
def test_a_series_for_each_phase_is_sorted_by_time(names: tuple[str, str, str]) -> None:
    phases = [volumes(text, time, protocol=f"{time}") for time, text in enumerate(names)]
    named = name(phases[2], phases[0], phases[1])
    assert minutes(named) == {"Pre": 0, "Post_1": 1, "Post_2": 2}
    assert named.how["Pre"] == "phase 1 of 3: the dynamic series of 3 series"


def test_without_times_phase_numbers_tell_the_order() -> None:
    texts = ("T1 nativ", "T1 post 1", "T1 post 2")
    phases = [volumes(text, None) for text in texts]
    named = name(phases[1], phases[2], phases[0])
    assert [stack.series.description for stack in named.sequences.values()] == list(texts)


def test_without_times_and_numbers_the_exam_is_refused() -> None:
    same = [volumes("t1_fl3d_dyn", None, protocol=str(number)) for number in range(3)]
    assert "neither times nor phase numbers tell the order of 3" in refusal(*same)


def test_phase_numbers_that_contradict_the_times_are_refused() -> None:
    late = [volumes(f"Ph{number}/Ax VIBRANT", 9 - number) for number in (1, 2, 3)]
    assert "contradict each other" in refusal(*late)


def test_an_examination_over_midnight_goes_on() -> None:
    midnight = (86_400 - START_S) / 60
    before, after = volumes("t1_fl3d_dyn", midnight - 1), volumes("t1_fl3d_dyn", 1 - START_S / 60)
    assert minutes(name(after, before))["Pre"] == midnight - 1


def test_pre_contrast_in_a_series_of_its_own_goes_with_the_post_contrast_series() -> None:
    named = name(volumes("Ax VIBRANT pre", 1), volumes("Ax VIBRANT +C", 3, 4, 5, contrast=True))
    assert minutes(named) == {"Pre": 1, "Post_1": 3, "Post_2": 4, "Post_3": 5}
    assert named.how["Pre"].startswith("phase 1 of 4: the post-contrast series and the T1 volume")


def test_a_volume_called_pre_beside_a_series_that_may_hold_one_is_not_decided() -> None:
    assert "called pre-contrast, and the first phase may be so too" in refusal(
        volumes("eTHRIVE pre", 1), volumes("eTHRIVE dyn", 3, 4, 5)
    )


def test_a_post_contrast_series_alone_is_refused() -> None:
    assert "no T1 volume of its geometry was acquired before it" in refusal(volumes("T1 post", 3, 4, 5))


def test_two_volumes_before_a_post_contrast_series_are_not_decided() -> None:
    others = volumes("t1_fl3d_fs", 1), volumes("t1_fl3d_spair", 2)
    assert "2 T1 volumes could be the one before contrast" in refusal(*others, volumes("T1 post", 3, 4))


def test_several_phases_before_contrast_are_told_by_the_mapping_file() -> None:
    named = name(DYNAMIC, mapping=SeriesMapping(pre_phases=2))
    assert minutes(named) == {"Pre": 12, "Post_1": 13, "Post_2": 14, "Post_3": 15, "Post_4": 16}
    assert [(out.what, out.reason) for out in named.left_out] == [
        ("phase", "an earlier phase before contrast")
    ]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ((True, False, False), "told for a phase and not for a later one"),
        ((False, False, True), "told from phase 3 on, but pre_phases says 1"),
    ],
)
def test_contrast_tags_that_contradict_the_order_are_refused(told: tuple[bool, ...], reason: str) -> None:
    phases = [volumes("t1_fl3d_dyn", time, contrast=agent) for time, agent in enumerate(told)]
    assert reason in refusal(*phases)


@pytest.mark.parametrize("told", [(False, True, True), (True, True, True), (False, False, False)])
def test_contrast_tags_that_fit_or_tell_nothing_do_no_harm(told: tuple[bool, ...]) -> None:
    phases = [volumes("t1_fl3d_dyn", time, contrast=agent) for time, agent in enumerate(told)]
    assert len(name(*phases).sequences) == 3


def test_a_late_phase_called_pre_contrast_is_refused() -> None:
    phases = [volumes("T1 vibe", 0), volumes("T1 vibe pre", 1), volumes("T1 vibe post", 2)]
    assert "phase 2 is called pre-contrast, but pre_phases is 1" in refusal(*phases)


# Damaged phases


def test_a_dynamic_series_whose_first_phase_is_damaged_is_refused() -> None:
    assert "phase 1 of 6 of the dynamic series, the last before contrast, is missing" in refusal(DYNAMIC[1:])


def test_a_dynamic_series_without_its_first_phase_after_contrast_is_refused() -> None:
    assert "phase 2 of 6 of the dynamic series, the first after contrast" in refusal(
        [DYNAMIC[0], *DYNAMIC[2:]]
    )


def test_a_later_damaged_phase_leaves_its_number_free() -> None:
    named = name([*DYNAMIC[:3], *DYNAMIC[4:]])
    assert list(named.sequences) == ["Pre", "Post_1", "Post_2", "Post_4", "Post_5"]


@pytest.mark.parametrize(("lost", "imported"), [(0, False), (2, False), (3, True)])
def test_a_damaged_series_of_one_phase_does_not_move_the_others_forward(lost: int, imported: bool) -> None:
    phases = [volumes("t1_fl3d_dyn", time) for time in range(4)]
    whole = study([stack for group in phases for stack in group])
    left = [stack for number, group in enumerate(phases) if number != lost for stack in group]
    if imported:
        assert len(name_stacks(whole, left, RULES).sequences) == 3
        return
    with pytest.raises(SeriesError, match="named like the phases of the dynamic one could not be read"):
        name_stacks(whole, left, RULES)


def test_a_phase_torn_between_studies_does_not_move_the_others_forward() -> None:
    phases = [volumes("t1_fl3d_dyn", time) for time in range(4)]
    left = [stack for group in phases[1:] for stack in group]
    torn = tuple(stack.series for stack in phases[0])
    with pytest.raises(SeriesError, match="named like the phases of the dynamic one could not be read"):
        name_stacks(replace(study(left), torn=torn), left, RULES)


def without_edge(stacks: list[Stack], edge: str) -> list[Stack]:
    """The same volumes short of their first or last slice."""
    affine = stacks[0].geometry.affine.copy()
    if edge == "first":
        affine[:3, 3] += affine[:3, 2]
    slices, rows, columns = stacks[0].geometry.shape
    geometry = replace(stacks[0].geometry, affine=affine, shape=(slices - 1, rows, columns))
    kept = slice(1, None) if edge == "first" else slice(0, -1)
    return [replace(stack, frames=stack.frames[kept], geometry=geometry) for stack in stacks]


PHASE_NAMES = {
    "alike": ["t1_fl3d_tra_dyn"] * 4,
    "called": ["t1_fl3d_pre", "t1_fl3d_post1", "t1_fl3d_post2", "t1_fl3d_post3"],
    "numbered": [f"Ph{number}/ t1 vibrant" for number in range(1, 5)],
    "other words": ["T1 nativ", "T1 KM 1", "T1 KM 2", "T1 KM 3"],
}


@pytest.mark.parametrize("edge", ["first", "last"])
@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (0, 1)])
@pytest.mark.parametrize("texts", list(PHASE_NAMES))
def test_a_phase_without_its_edge_slice_moves_no_other_phase(
    texts: str, lost: tuple[int, ...], edge: str
) -> None:
    phases = [volumes(text, time) for time, text in enumerate(PHASE_NAMES[texts])]
    for number in lost:
        phases[number] = without_edge(phases[number], edge)
    try:
        found = minutes(name(*phases))
    except SeriesError:
        return
    assert len(lost) == 2  # two phases of each grid: the first two are a dynamic series too
    assert found == {"Pre": 0, "Post_1": 1}


@pytest.mark.parametrize("lost", [0, 1])
def test_the_reason_for_an_edge_slice_is_told(lost: int) -> None:
    phases = [volumes("t1_fl3d_tra_dyn", time) for time in range(4)]
    phases[lost] = without_edge(phases[lost], "last")
    assert "a T1 volume with a part of its slices: slices of a phase are missing or damaged" in refusal(
        *phases
    )


def test_edge_slices_that_differ_between_phases_are_refused() -> None:
    phases = [volumes("t1_fl3d_tra_dyn", time) for time in range(4)]
    shifted = [without_edge(phases[0], "first"), *(without_edge(one, "last") for one in phases[1:])]
    assert "a part of its slices" in refusal(*shifted)


def test_a_phase_of_which_three_slices_are_left_is_missed() -> None:
    phases = [volumes("t1_fl3d_tra_dyn", time) for time in range(4)]
    for _ in range(5):
        phases[1] = without_edge(phases[1], "last")
    assert "a part of its slices" in refusal(*phases)


def test_a_last_phase_without_its_edge_slice_moves_none() -> None:
    phases = [volumes("t1_fl3d_tra_dyn", time) for time in range(4)]
    phases[3] = without_edge(phases[3], "last")
    assert minutes(name(*phases)) == {"Pre": 0, "Post_1": 1, "Post_2": 2}


def test_pre_without_its_edge_slice_beside_a_whole_series_is_refused() -> None:
    native = without_edge(volumes("t1_fl3d_tra nativ", 1), "first")
    posts = volumes("t1_fl3d_tra dyn KM", 3, 4, 5)
    assert "a part of its slices" in refusal(native, posts)


def test_t1_of_another_field_of_view_or_spacing_or_echo_time_does_no_harm() -> None:
    phases = [volumes("t1_fl3d_tra_dyn", time, echo=2.0) for time in range(1, 5)]
    wide, thick, moved = AXIAL.copy(), AXIAL.copy(), AXIAL.copy()
    wide[0, 0], thick[2, 2], moved[2, 3] = -1.2, 3.0, 1.0
    others = [
        volumes("t1_fl3d_tra", 0, echo=2.0, slices=SLICES - 1, affine=affine, protocol=str(number))
        for number, affine in enumerate((wide, thick, moved))
    ]
    longer = volumes("t1_fl3d_tra", 0, echo=5.0, slices=SLICES - 1)
    named = name(*phases, *others, longer)
    assert minutes(named) == {"Pre": 1, "Post_1": 2, "Post_2": 3, "Post_3": 4}
    assert reasons(named) == ["a T1 volume beside the dynamic series"] * 4


def test_an_earlier_dynamic_series_with_fewer_slices_does_no_harm() -> None:
    first = [without_edge(volumes("t1_fl3d_tra_dyn", time), "last") for time in range(3)]
    again = [volumes("t1_fl3d_tra_dyn", 20 + time) for time in range(3)]
    assert minutes(name(*first, *again)) == {"Pre": 20, "Post_1": 21, "Post_2": 22}


def test_a_mapping_file_that_names_pre_and_post_settles_it() -> None:
    other = without_edge(volumes("t1_fl3d_tra", 0), "last")
    phases = [volumes("t1_vibe_a", 1), volumes("t1_vibe_b", 2), volumes("t1_vibe_b", 3)]
    assert "a part of its slices" in refusal(other, *phases[:1], *[volumes("t1_vibe_a", 4)])
    mapping = SeriesMapping(Pre=("t1_vibe_a",), Post=("t1_vibe_b",))
    assert minutes(name(other, *phases, mapping=mapping)) == {"Pre": 1, "Post_1": 2, "Post_2": 3}
    phases[1] = without_edge(phases[1], "last")
    assert "a part of its slices" in refusal(other, *phases, volumes("t1_vibe_b", 5), mapping=mapping)


@pytest.mark.parametrize(
    "texts",
    [
        ("Ph2/ t1 vibrant", "Ph3/ t1 vibrant", "Ph4/ t1 vibrant"),
        ("Ph1/ t1 vibrant", "Ph2/ t1 vibrant", "Ph4/ t1 vibrant"),
        ("T1 nativ", "T1 KM 2", "T1 KM 3"),
        ("T1 vibe", "T1 vibe post 2", "T1 vibe post 3"),
    ],
)
def test_phase_numbers_with_a_gap_are_refused(texts: tuple[str, ...]) -> None:
    phases = [volumes(text, time) for time, text in enumerate(texts)]
    assert "phase numbers in the descriptions of the dynamic series have a gap" in refusal(*phases)


@pytest.mark.parametrize(
    "texts", [("T1 fl3d", "T1 fl3d dyn 2", "T1 fl3d dyn 3"), ("T1 nativ", "T1 KM 2 min")]
)
def test_phase_numbers_that_count_on_are_no_gap(texts: tuple[str, ...]) -> None:
    assert len(name(*(volumes(text, time) for time, text in enumerate(texts))).sequences) == len(texts)


def with_tag(stacks: list[Stack], keyword: str, numbers: tuple[int | None, ...]) -> list[Stack]:
    return [
        replace(stack, frames=tuple(replace(one, **{keyword: number}) for one in stack.frames))
        for stack, number in zip(stacks, numbers, strict=True)
    ]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("keyword", ["temporal_position", "acquisition_number"])
@pytest.mark.parametrize(
    ("numbers", "whole"),
    [
        ((1, 2, 3), True),
        ((0, 1, 2), True),
        ((1, 1, 1), True),
        ((1, None, None), True),
        ((2, 3, 4), False),
        ((1, 3, 4), False),
        ((1, 2, 4), False),
    ],
)
def test_numbers_of_phases_in_tags_must_count_on(
    numbers: tuple[int | None, ...], whole: bool, keyword: str, apart: bool
) -> None:
    stacks = volumes("t1_fl3d_dyn", 1, 2, 3)
    if apart:
        stacks = [stack for time in (1, 2, 3) for stack in volumes("t1_fl3d_dyn", time)]
    tagged = with_tag(stacks, keyword, numbers)
    if whole:
        assert len(name(tagged).sequences) == 3
    else:
        assert f"{keyword.replace('_', ' ')}s of the dynamic series have a gap" in refusal(tagged)


def test_acquisition_numbers_that_are_the_scans_of_the_exam_tell_nothing() -> None:
    stacks = [stack for time in (1, 2, 3) for stack in volumes("t1_fl3d_dyn", time)]
    tagged = with_tag(stacks, "acquisition_number", (7, 8, 10))
    scans = [
        replace(stack, series=replace(stack.series, number=100 * number + 1))
        for stack, number in zip(tagged, (7, 8, 10), strict=True)
    ]
    assert len(name(scans).sequences) == 3
    assert "acquisition numbers" in refusal(tagged)


def test_contrast_told_for_all_phases_and_not_for_a_volume_beside_is_refused() -> None:
    phases = [volumes("t1_fl3d_dyn", time, contrast=True) for time in (2, 3, 4)]
    assert "a contrast agent is told for all phases" in refusal(volumes("t1_vibe", 1), *phases)
    assert len(name(volumes("t1_vibe", 5), *phases).sequences) == 3


@pytest.mark.parametrize(("lost", "imported"), [(1, False), (3, True)])
def test_a_damaged_phase_is_missed_over_midnight(lost: int, imported: bool) -> None:
    midnight = (86_400 - START_S) / 60
    times = (midnight - 10, midnight - 2, 1 - START_S / 60, 3 - START_S / 60)
    phases = [volumes("t1_fl3d_dyn", time) for time in times]
    whole = study([stack for group in phases for stack in group])
    left = [stack for number, group in enumerate(phases) if number != lost for stack in group]
    if imported:
        assert len(name_stacks(whole, left, RULES).sequences) == 3
        return
    with pytest.raises(SeriesError, match="named like the phases of the dynamic one could not be read"):
        name_stacks(whole, left, RULES)


# Repeats and rivals


def test_of_a_repeated_dynamic_series_the_longest_is_taken() -> None:
    named = name(volumes("t1_dyn", 1, 2, 3, 4), volumes("t1_dyn", 11, 12))
    assert minutes(named)["Pre"] == 1
    assert named.how["Pre"] == "phase 1 of 4: the dynamic series; 2 dynamic series, the longest taken"
    assert reasons(named) == ["a T1 volume beside the dynamic series"]


def test_of_equally_long_ones_the_latest_is_taken() -> None:
    named = name(volumes("t1_dyn", 1, 2, 3), volumes("t1_dyn", 11, 12, 13))
    assert minutes(named)["Pre"] == 11
    assert "the latest of the longest taken" in named.how["Post_1"]


def test_a_repeat_with_a_series_for_each_phase_is_told_by_its_numbers() -> None:
    first = [volumes(f"Ph{number} VIBE", number) for number in (1, 2)]
    second = [volumes(f"Ph{number} VIBE", 10 + number) for number in (1, 2, 3)]
    assert minutes(name(*first, *second)) == {"Pre": 11, "Post_1": 12, "Post_2": 13}


def test_two_equally_long_series_at_one_time_are_not_decided() -> None:
    twice = volumes("t1_dyn", 1, 2, 3), volumes("t1_dyn neu", 1, 2, 3)
    assert "acquired at the same time" in refusal(*twice)


@pytest.mark.parametrize("told", ["tags", "places"])
def test_one_dynamic_series_a_breast_is_not_decided(told: str) -> None:
    moved = AXIAL.copy()
    moved[0, 3] = 0 if told == "tags" else 100
    sides = ("L", "R") if told == "tags" else ("", "")
    left = volumes("VIBRANT dyn", 1, 2, 3, laterality=sides[0])
    right = volumes("VIBRANT dyn", 4, 5, 6, laterality=sides[1], affine=moved)
    assert "different places, such as one breast each" in refusal(left, right)


def test_a_lesser_series_never_takes_the_place_of_the_refused_one() -> None:
    pair = volumes("t1 tse", 20), volumes("t1 tse", 21)
    assert "missing or damaged" in refusal(*pair, DYNAMIC[1:])


def test_a_time_resolved_series_is_not_preferred_for_its_many_phases() -> None:
    fast = volumes("t1_vibe_fast", *(20 + number / 20 for number in range(30)))
    assert minutes(name(fast, DYNAMIC))["Pre"] == 10


def test_t1_of_another_geometry_is_no_phase() -> None:
    named = name(volumes("t1_fl3d_nonfs", 1, slices=SLICES + 2), DYNAMIC)
    assert len(named.sequences) == 6
    assert reasons(named) == ["a T1 volume beside the dynamic series"]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ((T2,), "no T1 volume in this study"),
        ((volumes("t1_fl3d_tra", 1), T2), "wanted more than 1 T1 phases of one geometry, got 1 volumes"),
    ],
)
def test_an_exam_without_a_dynamic_series_is_refused(groups: tuple[list[Stack], ...], reason: str) -> None:
    assert reason in refusal(*groups)


def test_a_refused_study_tells_the_mapping_file_and_each_series() -> None:
    groups = (volumes("t1_fl3d_tra", 1), T2, volumes("ep2d_diff", 2), volumes("KX 3", 3, echo=None))
    with pytest.raises(
        NamingError, match="name Pre and Post, or dynamic, in the mapping file: --mapping"
    ) as caught:
        name(*groups)
    assert {each.what for each in caught.value.left_out} == {"series"}
    assert [each.reason for each in caught.value.left_out] == [
        "taken for T1 by description rule t1",
        "taken for T2 by description rule t2",
        "diffusion",
        "neither T1 nor T2 by description, protocol or echo time",
    ]
    assert all(each.path for each in caught.value.left_out)  # for --show-files


def test_a_study_without_volumes_is_refused() -> None:
    with pytest.raises(SeriesError, match="no MR volume among the 6 series"):
        name_stacks(study([s for n in range(6) for s in volumes("t1", n)]), [], RULES)


# What is never taken


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t1_fl3d_tra_dyn_SUB", "a subtraction"),
        ("dynaSUB", "a subtraction"),
        ("T1 Subtraktion 2", "a subtraction"),
        ("sub1_t1", "a subtraction"),
        ("t1_sub_MIP_cor", "a subtraction"),
        ("t1 tMIP cor", "a projection"),
        ("ep2d_diff_b50_b800", "diffusion"),
        ("DWI_ADC t2", "diffusion"),
        ("eADC", "diffusion"),
        ("t2_localizer", "a localizer"),
        ("3-Plane Loc", "a localizer"),
        ("Survey BREAST", "a localizer"),
        ("t1_mpr_cor", "a reformatted volume"),
        ("t1 dyn ROI", "a map or curve computed from other series"),
        ("t1 wash-in", "a map or curve computed from other series"),
        ("KIC t1", "a map or curve computed from other series"),
        ("t1_twist_tra", "a time-resolved series beside the dynamic one"),
        ("T2* map", "a map or curve computed from other series"),
        ("t2*_gre", "T2* weighted"),
        ("t1_MoCo", "a motion-corrected copy"),
        ("Silikon t2", "a silicone series"),
        ("t1_vibe_dixon_F", "a fat image of a Dixon series"),
        ("t1_vibe_dixon_opp", "an opposed-phase image of a Dixon series"),
        ("FAT: Ax T1", "a fat image of a Dixon series"),
        ("", "neither T1 nor T2 by description, protocol or echo time"),
    ],
)
def test_what_is_excluded_by_description(text: str, reason: str) -> None:
    named = name(DYNAMIC, volumes(text, 1, 2, 3, 4, 5, 6, 7, 8))
    assert minutes(named)["Pre"] == 10
    assert reasons(named) == [reason]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (("DERIVED", "PRIMARY", "M", "SUB"), "a subtraction"),
        (("DERIVED", "SECONDARY", "ADC"), "diffusion"),
        (("DERIVED", "SECONDARY", "MPR"), "a reformatted volume"),
        (("ORIGINAL", "PRIMARY", "P", "FFE"), "a phase image"),
        (("ORIGINAL", "PRIMARY", "M", "DIXON", "IN_PHASE"), "an in-phase image of a Dixon series"),
    ],
)
def test_what_is_excluded_by_image_type(kind: tuple[str, ...], reason: str) -> None:
    named = name(DYNAMIC, volumes("t1_fl3d_dyn", 1, 2, 3, 4, 5, 6, 7, 8, kind=kind))
    assert (minutes(named)["Pre"], reasons(named)) == (10, [reason])


def test_diffusion_weighting_and_few_slices_are_excluded_by_fact() -> None:
    weighted = volumes("t2 tra", 1)[0]
    weighted = replace(weighted, frames=tuple(replace(one, b_value=800.0) for one in weighted.frames))
    assert reasons(name(DYNAMIC, [weighted], volumes("t2 tra", 2, slices=3))) == [
        "3 slices, fewer than 4",
        "diffusion",
    ]


def test_the_copy_without_distortion_correction_is_left_out() -> None:
    corrected = volumes("t1_dyn", 1, 2, 3, kind=("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"))
    raw = volumes("t1_dyn_ND", 1, 2, 3, kind=("ORIGINAL", "PRIMARY", "M", "ND", "NORM"))
    named = name(raw, corrected)
    assert named.sequences["Pre"] is corrected[0]
    assert reasons(named) == ["a copy without distortion correction"]
    assert name(raw).sequences["Pre"] is raw[0]


@pytest.mark.parametrize(
    ("text", "echo", "reason"),
    [
        ("t2_tse_tra", 4.0, "called T2, but its echo time is 4 ms"),
        ("t1_tse_tra", 90.0, "called T1, but its echo time is 90 ms"),
    ],
)
def test_a_name_that_the_echo_time_contradicts_is_not_trusted(text: str, echo: float, reason: str) -> None:
    assert reasons(name(DYNAMIC, volumes(text, 1, echo=echo))) == [reason]


# Without descriptions


def test_echo_times_tell_where_descriptions_do_not() -> None:
    named = name(volumes("S7", 1, 2, 3, echo=1.7), volumes("S3", 0, echo=95.0))
    assert minutes(named) == {"Pre": 1, "Post_1": 2, "Post_2": 3, "T2": 0}
    assert named.how["T2"].startswith("echo time 95 ms")


def test_phases_tell_where_nothing_else_does() -> None:
    assert minutes(name(volumes("", 1, 2, 3), volumes("", 0))) == {"Pre": 1, "Post_1": 2, "Post_2": 3}


def test_the_protocol_name_stands_in_for_the_description() -> None:
    named = name(volumes("", 1, 2, 3, protocol="t1_fl3d_dyn"), volumes("", 0, protocol="t2_tse"))
    assert set(named.sequences) == {"Pre", "Post_1", "Post_2", "T2"}
    assert named.how["T2"].startswith("protocol rule t2")


# T2


def test_t2_may_be_absent() -> None:
    assert "T2" not in name(DYNAMIC).sequences


def test_t2_in_the_plane_of_pre_without_fat_saturation_with_most_slices_is_taken() -> None:
    best = volumes("t2_tse_tra", 3, slices=10, echo=90.0)
    rivals = (
        volumes("t2_tse_sag", 1, slices=16, echo=90.0, affine=SAGITTAL),
        volumes("t2_tirm_tra", 2, slices=12, echo=60.0),
        volumes("t2_tse_tra", 4, slices=8, echo=90.0),
    )
    named = name(DYNAMIC, *rivals, best)
    assert named.sequences["T2"] is best[0]
    assert named.how["T2"] == (
        "description rule t2, axial, without fat saturation, "
        "the first of 4 by plane, fat saturation and slices"
    )
    assert reasons(named) == ["another T2 volume was taken"] * 3


def test_of_a_repeated_t2_the_latest_is_taken() -> None:
    named = name(DYNAMIC, volumes("t2_tse", 1, echo=90.0), volumes("t2_tse", 4, echo=90.0))
    assert minutes(named)["T2"] == 4
    assert named.how["T2"].endswith("the latest of 2 repeats")


def test_t2_that_the_order_cannot_decide_stays_absent_and_is_told() -> None:
    named = name(DYNAMIC, volumes("t2_tse", 1, echo=60.0), volumes("t2_tse", 2, echo=120.0))
    assert "T2" not in named.sequences
    assert reasons(named) == ["2 volumes could be T2: name one in the mapping file: --mapping"] * 3


def test_t2_of_another_place_is_not_taken() -> None:
    moved = AXIAL.copy()
    moved[2, 3] = 40.0
    named = name(DYNAMIC, volumes("t2_tse", 1, affine=moved))
    assert "T2" not in named.sequences
    assert reasons(named) == ["a T2 volume of another place: less than 50% of Pre lies within it"]


# The mapping file


def test_the_mapping_file_names_what_no_rule_would() -> None:
    odd = volumes("UKX M07", 3, 4, 5), volumes("UKX m03 sub", 1)
    named = name(*odd, DYNAMIC, T2, mapping=SeriesMapping(dynamic=("ukx M07*",), T2=("*M03*",)))
    assert minutes(named) == {"Pre": 3, "Post_1": 4, "Post_2": 5, "T2": 1}
    assert named.how["Pre"] == "phase 1 of 3: mapping, the dynamic series"
    assert named.how["T2"].startswith("mapping, axial")
    assert "a T2 volume that the mapping file does not name" not in reasons(named)


def test_pre_and_post_of_the_mapping_file() -> None:
    mapping = SeriesMapping(Pre=("scan a",), Post=("scan b*",))
    named = name(volumes("scan b 2", 4), volumes("scan a", 1), volumes("scan b 1", 3), mapping=mapping)
    assert minutes(named) == {"Pre": 1, "Post_1": 3, "Post_2": 4}


@pytest.mark.parametrize("key", ["Pre", "Post"])
def test_one_of_pre_and_post_in_the_mapping_file_is_enough(key: str) -> None:
    mapping = SeriesMapping(Pre=("t1_fl3d_a",)) if key == "Pre" else SeriesMapping(Post=("t1_fl3d_b",))
    named = name(volumes("t1_fl3d_a", 1), volumes("t1_fl3d_b", 3, 4), mapping=mapping)
    assert minutes(named) == {"Pre": 1, "Post_1": 3, "Post_2": 4}


def test_the_first_pattern_that_matches_counts() -> None:
    other = volumes("t2_tse_b", 2, echo=90.0)
    named = name(DYNAMIC, T2, other, mapping=SeriesMapping(T2=("t2_haste*", "t2_tse_b", "t2*")))
    assert named.sequences["T2"] is other[0]


def test_a_wide_pattern_does_not_take_what_the_rules_exclude() -> None:
    subtractions = volumes("t1_fl3d_tra_dyn_1+5_SUB", 10, 12, 13, 14, 15, 16, 17)
    mapping = SeriesMapping(dynamic=("*dyn*",), T2=("t2*",))
    named = name(subtractions, DYNAMIC, volumes("t2_loc", 1, slices=20), T2, mapping=mapping)
    assert named.sequences["Pre"] is DYNAMIC[0]
    assert named.sequences["T2"] is T2[0]


def test_ignored_series_are_never_taken() -> None:
    named = name(DYNAMIC, T2, volumes("t1_dyn", 20, 21), mapping=SeriesMapping(ignore=("t1_dyn", "t2*")))
    assert "T2" not in named.sequences
    assert reasons(named) == ["ignored by the mapping file"] * 2


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        (SeriesMapping(dynamic=("x*",)), "no series matches the mapping file's patterns for dynamic"),
        (SeriesMapping(Pre=("t1*",), Post=("x",)), "no series matches the mapping file's patterns for"),
        (SeriesMapping(Pre=("t1*",), Post=("t1*",)), "match the same series; use dynamic"),
        (SeriesMapping(Pre=("t1*",)), "matches a series of several phases; use dynamic"),
    ],
)
def test_a_mapping_file_that_does_not_fit_is_told(mapping: SeriesMapping, reason: str) -> None:
    assert reason in refusal(DYNAMIC, T2, mapping=mapping)


def test_a_volume_after_contrast_is_not_named_pre_by_the_mapping_file() -> None:
    mapping = SeriesMapping(Pre=("late",), Post=("t1*",))
    assert "no volume before contrast was acquired earlier" in refusal(
        volumes("late", 30), DYNAMIC, mapping=mapping
    )


def test_t2_that_the_mapping_file_does_not_find_is_told() -> None:
    named = name(DYNAMIC, T2, mapping=SeriesMapping(T2=("t2_haste",)))
    assert "T2" not in named.sequences
    assert reasons(named) == [
        "a T2 volume that the mapping file does not name",
        "no series matches the mapping file's patterns for T2",
    ]


# The rest


def test_the_order_in_which_volumes_come_does_not_matter() -> None:
    singles = [volumes(f"Ph{number} VIBE", number) for number in (1, 2)]
    groups = [DYNAMIC, volumes("t1_dyn", 30, 31, 32), *singles, T2, volumes("t2_tse_tra", 6, echo=90.0)]
    stacks = [stack for group in (*groups, volumes("t2_tirm", 7), volumes("ADC", 8)) for stack in group]
    expected = name_stacks(study(stacks), stacks, RULES)
    rng = np.random.default_rng(0)
    for _ in range(20):
        turned = [stacks[place] for place in rng.permutation(len(stacks))]
        named = name_stacks(study(turned), turned, RULES)
        assert named.how == expected.how
        assert all(named.sequences[name] is stack for name, stack in expected.sequences.items())
        assert reasons(named) == reasons(expected)


def test_laterality_is_that_of_pre() -> None:
    assert name(volumes("t1_dyn", 1, 2, laterality="L")).laterality == "L"
    assert name(DYNAMIC).laterality == ""


def test_words_are_told_apart_at_capitals_digits_and_umlauts() -> None:
    assert words("eTHRIVE_dyn 1+5 Spät T2*") == ("e", "thrive", "dyn", "1", "5", "spaet", "t2star", "ethrive")
