"""The audit log: what was written is found again, and what was done to it is seen."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

import client.audit
from client.audit import AUDIT_FILE, CUT_SHORT, AuditError, AuditLog, append, read_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A private folder with a log of four entries."""
    for number in range(4):
        append(tmp_path, "sent", {"round": number, "to": "Köln", "share": 0.1})
    return tmp_path


def lines(folder: Path) -> list[str]:
    return (folder / AUDIT_FILE).read_text("utf-8").splitlines(keepends=True)


def rewrite(folder: Path, kept: list[str]) -> None:
    (folder / AUDIT_FILE).write_text("".join(kept), "utf-8")


def test_entries_come_back_in_order_and_only_the_owner_reads_them(log: Path) -> None:
    entries = read_log(log)
    assert [(entry.number, entry.kind) for entry in entries] == [(n, "sent") for n in (1, 2, 3, 4)]
    assert entries[2].fields == {"round": 2, "to": "Köln", "share": 0.1}
    assert all(entry.time.endswith("Z") for entry in entries)
    assert (log / AUDIT_FILE).stat().st_mode & 0o777 == 0o600


def test_no_log_has_no_entries(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none") == ()


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_changed_line_is_named(log: Path, place: int) -> None:
    content = lines(log)
    content[place] = content[place].replace(f'"round": {place}', '"round": 7')
    rewrite(log, content)
    with pytest.raises(AuditError, match=rf"line {place + 1} was changed or damaged"):
        read_log(log)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([1, 2, 3], "line 1 holds entry 2"),
        ([0, 2, 3], "line 2 holds entry 3"),
        ([0, 2, 1, 3], "line 2 holds entry 3"),
        ([0, 1, 1, 2, 3], "line 3 holds entry 2"),
    ],
)
def test_lines_taken_out_moved_or_doubled_are_named(log: Path, order: list[int], told: str) -> None:
    content = lines(log)
    rewrite(log, [content[place] for place in order])
    with pytest.raises(AuditError, match=told):
        read_log(log)


def test_a_line_of_another_log_does_not_fit(log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for number in range(2):
        append(other, "sent", {"round": 10 + number})
    content = lines(log)
    rewrite(log, [content[0], lines(other)[1], *content[2:]])
    with pytest.raises(AuditError, match="line 2 does not follow"):
        read_log(log)


def test_a_changed_last_line_is_not_built_upon(log: Path) -> None:
    rewrite(log, [*lines(log)[:3], "{}\n"])
    with pytest.raises(AuditError, match="the last line was changed or damaged"):
        append(log, "sent", {})


def test_a_line_that_a_power_cut_shortened_is_told_and_the_log_goes_on(log: Path) -> None:
    content = lines(log)
    rewrite(log, [*content, content[3][:40]])
    append(log, "forget-done", {"number": 1})
    assert [entry.kind for entry in read_log(log)] == ["sent"] * 4 + [CUT_SHORT, "forget-done"]
    assert read_log(log)[4].fields == {"num_bytes": 40}


def test_several_writers_lose_no_entry(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for number in range(5):
            append(tmp_path, "sent", {"writer": writer, "number": number})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_log(tmp_path)) == 15


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_is_no_json_is_refused_and_nothing_is_written(value: object, log: Path) -> None:
    with pytest.raises((ValueError, TypeError)):
        append(log, "sent", {"value": value})
    assert len(read_log(log)) == 4


def test_an_entry_in_a_long_log_costs_no_more_than_in_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous, written = client.audit._BEFORE_FIRST, bytearray()
    for number in range(1, 10_001):
        fields = {"words": "x" * 1_000, "run": number % 100}
        line = client.audit._line(number, "sent", fields, previous=previous)
        written += line + b"\n"
        previous = client.audit._sha256(line)
    (tmp_path / AUDIT_FILE).write_bytes(written)
    num_read = 0

    class Counting(io.FileIO):
        def readinto(self, buffer: bytearray) -> int:
            nonlocal num_read
            got = super().readinto(buffer)
            num_read += got
            return got

    monkeypatch.setattr(Path, "open", lambda path, _: io.BufferedReader(Counting(path)))
    append(tmp_path, "sent", {})
    assert 0 < num_read < 300_000 < len(written)
    newest = AuditLog(tmp_path).newest_first()
    assert [next(newest).number for _ in range(3)] == [10_001, 10_000, 9_999]
    assert num_read < 600_000
    some = AuditLog(tmp_path).newest_first(holding=b'"run": 7,')
    assert [next(some).number for _ in range(2)] == [9_907, 9_807]


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
def test_backwards_is_the_order_of_writing_turned_round(
    log: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.audit._BLOCK", block)
    append(log, "sent", {"round": 4})
    forwards = read_log(log)
    assert tuple(AuditLog(log).newest_first()) == forwards[::-1]
    assert forwards[-1].number == 5
    assert tuple(AuditLog(log / "none").newest_first()) == ()


def test_backwards_a_changed_line_is_seen_and_a_cut_off_one_passed_over(log: Path) -> None:
    content = lines(log)
    rewrite(log, [content[0], content[1].replace("Köln", "Bonn"), *content[2:], content[3][:40]])
    found = AuditLog(log).newest_first()
    assert [next(found).number for _ in range(2)] == [4, 3]
    with pytest.raises(AuditError, match="a line was changed or damaged"):
        next(found)


def test_a_line_that_was_cut_off_is_told_before_the_next_entry_says_so(log: Path) -> None:
    rewrite(log, [*lines(log), "{"])
    with pytest.raises(AuditError, match=r"line 5 was cut off; the next entry will say so"):
        read_log(log)


def test_an_empty_line_at_the_end_is_not_built_upon(log: Path) -> None:
    rewrite(log, [*lines(log), "\n"])
    with pytest.raises(AuditError, match="the last line was changed or damaged"):
        append(log, "sent", {})


def test_a_log_that_others_could_read_is_closed_to_them(log: Path) -> None:
    (log / AUDIT_FILE).chmod(0o644)
    append(log, "sent", {})
    assert (log / AUDIT_FILE).stat().st_mode & 0o777 == 0o600


def test_a_digest_noted_elsewhere_finds_its_entry(log: Path) -> None:
    noted = read_log(log)[-1]
    append(log, "sent", {})
    assert [entry.number for entry in read_log(log) if entry.digest == noted.digest] == [4]
    assert len({entry.digest for entry in read_log(log)}) == 5


def test_a_disk_that_takes_nothing_is_one_line(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.audit.os.write", full)
    with pytest.raises(AuditError, match=r"audit\.jsonl cannot be written or read: No space left on device"):
        append(log, "sent", {})
