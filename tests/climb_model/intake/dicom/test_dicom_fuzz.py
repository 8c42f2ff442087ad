"""500 damaged DICOM files: none crashes, hangs, fills the memory, or is imported wrongly in silence."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

NUM_CASES = 500
BATCH = 25
BATCH_SECONDS = 600
MEMORY_BYTES = 3 * 2**30
SLICES, PHASES = 4, 3
SYNTAXES = ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless")
KINDS = ("flip", "flip", "flip", "cut", "remove", "absurd", "change")

ABSURD: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, 65535),
    "Columns": (0, 1, 65535),
    "NumberOfFrames": (0, -1, 10**9),
    "BitsAllocated": (0, 1, 8, 32, 64, 65535),
    "SamplesPerPixel": (0, 3, 65535),
    "PixelRepresentation": (7,),
    "PixelSpacing": ([0, 0], [-1, -1], [1e300, 1e300], [1e-300, 1e-300]),
    "ImagePositionPatient": ([1e300, 0, 0], [0, 0, 1e15]),
    "ImageOrientationPatient": ([0] * 6, [1e9] * 6),
    "SliceThickness": (-1, 1e300),
    "RescaleSlope": (0, 1e300, 1e-300),
    "RescaleIntercept": (1e300,),
    "AcquisitionTime": ("999999", "235959"),
    "TemporalPositionIdentifier": (-(2**31), 2**31 - 1),
    "EchoTime": (-1, 1e300),
}
CHANGED: dict[str, tuple[Any, ...]] = {
    "Rows": (10,),
    "Columns": (12,),
    "PixelSpacing": ([0.7, 0.9], [0.91, 0.7]),
    "ImagePositionPatient": ([0, 0, 0], [-31, 42, 8]),
    "ImageOrientationPatient": ([1, 0, 0, 0, 1, 0],),
    "RescaleSlope": (2, 0.5),
    "RescaleIntercept": (-1024,),
    "PixelRepresentation": (0,),
    "TemporalPositionIdentifier": (1, 2, 3),
    "AcquisitionTime": ("100030", "120000"),
    "AcquisitionNumber": (1, 7),
    "EchoTime": (4.8,),
    "ImageType": (["DERIVED", "SECONDARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    "SeriesInstanceUID": ("1.2.3",),
    "StudyInstanceUID": ("1.2.4",),
    "SOPInstanceUID": ("1.2.5", "1.2.826.0.1.3680043.8.498.1.1.1"),
    "SOPClassUID": ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.2"),
    "Modality": ("CT", "PR"),
    "PatientID": ("0816", ""),
    "AccessionNumber": ("A4712", ""),
    "SeriesDescription": ("t2_tse_tra",),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB"),
    "StudyDate": ("20210101",),
}

UNDETECTABLE_OF_A_FILE = {
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameAcquisitionDateTime",
}
"""Tags that hold for a whole phase where it is one enhanced file: another legal value contradicts nothing."""

UNDETECTABLE_OF_A_STUDY = UNDETECTABLE_OF_A_FILE | {
    "AccessionNumber",
    "PatientID",
    "PatientBirthDate",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "EffectiveEchoTime",
}
"""The same where one file is the whole study."""


LAYOUTS = ("classic", "apart", "enhanced", "single")
"""A file a slice, the same with a series a phase, an enhanced file a phase, one enhanced file."""


def base_series(mr_files: Any, folder: Path, layout: str, syntax: str) -> Path:
    phases = [mr_files.stack(SLICES, phase) for phase in range(PHASES)]
    for slices in phases:
        random.Random(0).shuffle(slices)
    flat = [one for slices in phases for one in slices]
    files = {
        "classic": flat,
        "apart": series_apart(mr_files) if layout == "apart" else [],
        "enhanced": [mr_files.enhanced(slices) for slices in phases],
        "single": [mr_files.enhanced(flat)],
    }[layout]
    mr_files.save(folder, files)
    return mr_files.compress(folder, syntax) if syntax else folder


def series_apart(mr_files: Any) -> list[Any]:
    """Each phase in a series of its own; only its time tells which it is."""
    files: list[Any] = []
    for phase in range(PHASES):
        for data in mr_files.stack(SLICES, phase, series=f"{mr_files.series}.{phase + 7}"):
            del data.TemporalPositionIdentifier
            files.append(data)
    return files


def pixel_start(content: bytes) -> int:
    """Where the value of the pixel data element starts."""
    return content.rindex(b"\xe0\x7f\x10\x00O") + 12


def all_sets(data: Dataset) -> list[Dataset]:
    """The data set and the items of its sequences."""
    found = [data]
    for element in data:
        if element.VR == "SQ":
            found += [one for item in element.value for one in all_sets(item)]
    return found


def mutate(path: Path, kind: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if kind == "flip":
        end = pixel_start(bytes(content))
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            content[rng.randrange(132, end)] = rng.randrange(256)
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "codestream":
        start = pixel_start(bytes(content))
        for _ in range(rng.choice((1, 2, 8))):
            content[rng.randrange(start, len(content))] = rng.randrange(256)
        path.write_bytes(content)
    else:
        change_tag(path, kind, rng)


def change_tag(path: Path, kind: str, rng: random.Random) -> None:
    data = pydicom.dcmread(path)
    if kind == "remove":
        part = rng.choice(all_sets(data))
        del part[rng.choice(list(part.keys()))]
    else:
        keyword, values = rng.choice(list((ABSURD if kind == "absurd" else CHANGED).items()))
        holders = [one for one in all_sets(data) if keyword in one] or [data]
        value = rng.choice(values)
        for part in rng.choice((holders, [rng.choice(holders)])):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            kind_of_value = pydicom.datadict.dictionary_VR(tag)
            part[tag] = DataElement(tag, kind_of_value, value, validation_mode=pydicom.config.IGNORE)
    data.save_as(path)


def import_tree(folder: Path) -> dict[str, Any]:
    """All that an import makes of a tree, as plain values."""
    from climb_model.intake.dicom.headers import scan
    from climb_model.intake.dicom.stacks import find_stacks, read_voxels
    from climb_model.intake.study import SeriesError, Stack

    found = scan(folder)
    told = [one.reason for one in found.left_out]
    volumes: list[Any] = []
    named: list[dict[str, str]] = []
    for study in found.studies:
        of_study: list[Stack] = []
        digests: dict[int, str] = {}
        for series in study.series:
            stacks, left_out = find_stacks(series)
            of_study += stacks
            told += [one.reason for one in left_out]
            for stack in stacks:
                told += stack.notices
                try:
                    voxels = read_voxels(stack)
                except SeriesError as error:
                    told.append(str(error))
                    continue
                digests[id(stack)] = hashlib.sha256(voxels.astype("<f4").tobytes()).hexdigest()
                volumes.append(
                    {
                        "study": [study.uid, study.accession, study.patient, study.date, study.age_days],
                        "series": [series.uid, series.description, series.protocol, series.modality],
                        "sides": [series.laterality, series.contrast],
                        "phase": [stack.phase, stack.num_phases],
                        "time": [stack.time_s, stack.time_from],
                        "kind": [stack.frames[0].echo_ms, list(stack.frames[0].image_type)],
                        "affine": stack.geometry.affine.round(5).tolist(),
                        "shape": voxels.shape,
                        "voxels": digests[id(stack)],
                    }
                )
        named.append(name_volumes(study, of_study, digests))
    return {"told": told, "volumes": volumes, "named": named}


def name_volumes(study: Any, stacks: list[Any], digests: dict[int, str]) -> dict[str, str]:
    """Name of each sequence of an exam to its voxels' digest; empty if the exam is refused."""
    from climb_model.intake.mapping import SeriesMapping
    from climb_model.intake.sequences.recognise import name_stacks
    from climb_model.intake.study import SeriesError

    try:
        sequences = name_stacks(study, stacks, SeriesMapping()).sequences
    except SeriesError:
        return {}
    named = {name: digests.get(id(stack), "") for name, stack in sequences.items()}
    return named if all(named.values()) else {}  # the import refuses it


def changed_keywords(before: Path, after: Path) -> set[str]:
    """Keywords whose values differ anywhere in two files; `private` only if there is no other.

    A flipped byte in a tag's number takes the element away and leaves one that nothing reads.
    """
    sets = [all_sets(pydicom.dcmread(path)) for path in (before, after)]
    if len(sets[0]) != len(sets[1]):
        return {"structure"}
    keywords: set[str] = set()
    for one, other in zip(*sets, strict=True):
        for tag in set(one.keys()) | set(other.keys()):
            if tag not in one or tag not in other:
                keywords.add(pydicom.datadict.keyword_for_tag(tag) or "private")
            elif one[tag].VR != "SQ" and one[tag].value != other[tag].value:
                keywords.add(one[tag].keyword or "private")
    return keywords - {"private"} or keywords


@pytest.mark.long
def test_no_damaged_file_is_imported_wrongly_in_silence(mr_files: Any, tmp_path: Path) -> None:
    bases: dict[str, Path] = {}
    for layout in LAYOUTS:
        for syntax in ("", *SYNTAXES):
            name = f"{layout} {syntax or 'raw'}"
            bases[name] = base_series(mr_files, tmp_path / name, layout, syntax)
    untouched = run_batch([str(folder) for folder in bases.values()])  # under the same limits
    expected = dict(zip(bases, untouched, strict=True))
    assert all(result["told"] == [] and len(result["volumes"]) == PHASES for result in expected.values())
    assert all([*map(list, result["named"])] == [["Pre", "Post_1", "Post_2"]] for result in untouched)
    rng = random.Random(20261122)
    cases: list[dict[str, str]] = []
    for number in range(NUM_CASES):
        raw = number % 2 == 0
        name = f"{rng.choice(LAYOUTS)} {'raw' if raw else rng.choice(SYNTAXES)}"
        folder = tmp_path / "cases" / str(number)
        shutil.copytree(bases[name], folder)
        kind = rng.choice(KINDS if raw else (*KINDS, "codestream"))
        file = rng.choice(sorted(folder.iterdir()))
        mutate(file, kind, rng)
        cases.append({"folder": str(folder), "base": name, "kind": kind, "file": file.name})
    counts: Counter[str] = Counter()
    silent: list[str] = []
    for start in range(0, NUM_CASES, BATCH):
        batch = cases[start : start + BATCH]
        for case, result in zip(batch, run_batch([case["folder"] for case in batch]), strict=True):
            verdict = judge(case, result, expected[case["base"]], bases[case["base"]])
            counts[f"{case['kind']}: {verdict}"] += 1
            counts[f"all: {verdict.partition(' (')[0]}"] += 1
            if verdict.startswith("WRONG"):
                silent.append(f"{case} {verdict}")
    sys.stdout.writelines(f"\n{count:4d}  {name}" for name, count in sorted(counts.items()))
    assert not silent, "\n".join(silent)


def judge(case: dict[str, str], result: dict[str, Any], expected: dict[str, Any], base: Path) -> str:
    if "crash" in result:
        return f"WRONG crash {result['crash']}"
    names = {digest: name for name, digest in expected["named"][0].items()}
    for exam in result["named"]:
        for name, digest in exam.items():
            if names.get(digest, name) != name:
                return f"WRONG name: {names[digest]} is called {name}"
            if digest not in names and not (result["told"] or is_undetectable(case, base)):
                return f"WRONG voxels of {name}"
    if result["volumes"] == expected["volumes"]:
        return "same volumes" + (", with a word about it" if result["told"] else "")
    if result["told"]:
        return "left out or noted"
    undetectable = is_undetectable(case, base)
    if undetectable:
        return undetectable
    series = {tuple(volume["study"][:1] + volume["series"][:1]) for volume in result["volumes"]}
    before = {tuple(volume["study"][:1] + volume["series"][:1]) for volume in expected["volumes"]}
    if len(series) > len(before):
        return "listed as a series of its own"
    return f"WRONG {sorted(changes(case, base))}"


def is_undetectable(case: dict[str, str], base: Path) -> str:
    """Why no import can see a change; empty if it can."""
    if case["kind"] == "codestream":
        return "undetectable (compressed pixels carry no checksum)"
    changed = changes(case, base)
    if case["base"].startswith("single") and changed <= UNDETECTABLE_OF_A_STUDY:
        return f"undetectable (another legal value for a whole study: {', '.join(sorted(changed))})"
    if case["base"].startswith("enhanced") and changed <= UNDETECTABLE_OF_A_FILE:
        return f"undetectable (another legal value for a whole phase: {', '.join(sorted(changed))})"
    return ""


def changes(case: dict[str, str], base: Path) -> set[str]:
    with warnings.catch_warnings(action="ignore"):
        return changed_keywords(base / case["file"], Path(case["folder"]) / case["file"])


def run_batch(folders: list[str]) -> list[dict[str, Any]]:
    """Import each folder in one process with limited memory and time."""
    limit = (MEMORY_BYTES, MEMORY_BYTES)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", __file__, *folders],
        capture_output=True,
        text=True,
        timeout=BATCH_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert not any(secret in done.stderr for secret in ("Muster", "4711", "0815")), done.stderr
    assert done.returncode == 0, f"{folders[len(results)]}: {done.stderr[-2000:]}"
    return results


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[4]))
    for each in sys.argv[1:]:
        try:
            outcome = import_tree(Path(each))
        except Exception:
            outcome = {"crash": traceback.format_exc()[-600:]}
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
