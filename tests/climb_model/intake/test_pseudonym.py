"""Keyed names of exams and patients, and the key they hang on."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import re
import stat
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from climb_model.data.exam import DataError
from climb_model.intake.pseudonym import KEY_FILE, exam_id, keyed_digest, patient_id, pseudonym, site_key
from climb_model.intake.study import Study

KEY = bytes(range(32))


def study(*, accession: str = "A4711", patient: str = "0815", uid: str = "1.2.3") -> Study:
    return Study(
        uid=uid,
        accession=accession,
        patient=patient,
        date="",
        age_days=None,
        names=frozenset(),
        vendor="other",
        field_strength_t=None,
        series=(),
    )


def test_a_digest_is_hmac_sha256_of_the_parts_with_their_lengths() -> None:
    message = b"\0\0\0\x02ab\0\0\0\x01c"
    assert keyed_digest(KEY, "ab", "c") == hmac.new(KEY, message, hashlib.sha256).hexdigest()
    assert pseudonym(KEY, "ab", "c") == keyed_digest(KEY, "ab", "c")[:20]


def test_the_parts_of_a_name_cannot_run_into_each_other() -> None:
    assert pseudonym(KEY, "patient", "1", "23") != pseudonym(KEY, "patient", "12", "3")


def test_names_are_hexadecimal_and_hang_on_the_key() -> None:
    names = exam_id(study(), KEY), patient_id("0815", KEY), exam_id(study(), bytes(32))
    assert all(re.fullmatch(r"[0-9a-f]{20}", name) for name in names)
    assert len(set(names)) == 3


def test_an_exam_is_named_by_its_accession_number_alone() -> None:
    assert exam_id(study(patient="x", uid="9"), KEY) == exam_id(study(), KEY)
    assert exam_id(study(accession="04711"), KEY) != exam_id(study(accession="4711"), KEY)


def test_without_accession_number_two_studies_of_a_patient_have_two_names() -> None:
    names = {exam_id(study(accession="", uid=uid), KEY) for uid in ("1.2.3", "1.2.4")}
    assert len(names) == 2
    assert patient_id("0815", KEY) not in names


@pytest.mark.parametrize("patient", ["", "0815"])
def test_a_study_that_nothing_names_is_refused(patient: str) -> None:
    with pytest.raises(DataError, match="neither an accession number nor a patient number"):
        exam_id(study(accession="", patient=patient, uid="" if patient else "1.2.3"), KEY)


def test_a_patient_without_number_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be kept together"):
        patient_id("", KEY)


def test_leading_zeros_of_a_patient_number_count() -> None:
    assert patient_id("0815", KEY) != patient_id("815", KEY)


# The key


def test_the_key_is_made_once_and_its_owner_alone_may_read_it(tmp_path: Path) -> None:
    key = site_key(tmp_path)
    assert (len(key), site_key(tmp_path)) == (32, key)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "private").iterdir()] == [KEY_FILE.name]
    assert site_key(tmp_path / "other") != key


def test_a_key_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    site_key(tmp_path)
    path = tmp_path / KEY_FILE
    path.chmod(0o644)
    with pytest.raises(DataError, match=r"can be read by others \(mode 644\)"):
        site_key(tmp_path)
    path.chmod(0o600)
    for damaged in (b"", b"abc", b"\xff" * 64, b"g" * 64):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged") as caught:
            site_key(tmp_path)
        assert str(tmp_path) not in caught.value.public
        assert path.read_bytes() == damaged


def test_no_new_key_is_made_beside_exams_that_an_old_one_named(tmp_path: Path) -> None:
    name = exam_id(study(), site_key(tmp_path))
    (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(DataError, match="missing, but 1 exams were named by it") as caught:
        site_key(tmp_path)
    assert str(tmp_path) not in caught.value.public
    assert not (tmp_path / KEY_FILE).exists()


def test_exams_with_names_of_their_own_do_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "data" / "Phantom-1").mkdir(parents=True)
    assert len(site_key(tmp_path)) == 32


def test_a_key_that_cannot_be_made_or_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("a file")
    with pytest.raises(DataError, match="neither read nor made") as caught:
        site_key(tmp_path)
    assert str(tmp_path) not in caught.value.public
    (tmp_path / "private").unlink()
    (tmp_path / KEY_FILE).mkdir(parents=True)
    with pytest.raises(DataError, match="neither read nor made"):
        site_key(tmp_path)


def _send_key(site: Path, start: Barrier, keys: Queue[bytes]) -> None:
    start.wait()
    keys.put(site_key(site))


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, keys = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_send_key, args=(tmp_path, start, keys)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {keys.get(timeout=20) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {site_key(tmp_path)}
