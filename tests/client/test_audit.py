"""The audit log: what was written is found again, and what was done to it is seen."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest

import client.audit
from client.audit import (
    AUDIT_FILE,
    CUT_SHORT,
    END_FILE,
    AuditError,
    AuditLog,
    accept_end,
    append,
    read_log,
    writing,
)


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

    monkeypatch.setattr("client.audit.os.fdopen", lambda file, _: io.BufferedReader(Counting(file)))
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


def test_backwards_a_line_that_was_taken_out_is_seen_though_none_of_its_kind_is_asked_for(log: Path) -> None:
    content = lines(log)
    rewrite(log, [content[0], content[1], content[3]])
    with pytest.raises(AuditError, match="a line was changed or damaged, or one was taken out"):
        list(AuditLog(log).newest_first(holding=b'"round": 0'))


def test_backwards_lines_that_were_taken_out_at_the_beginning_are_seen(log: Path) -> None:
    rewrite(log, lines(log)[2:])
    found = AuditLog(log).newest_first()
    assert [next(found).number for _ in range(2)] == [4, 3]
    with pytest.raises(AuditError, match="taken out at its beginning"):
        next(found)


@pytest.mark.parametrize("name", [AUDIT_FILE, "audit.lock"])
@pytest.mark.parametrize("what", ["link", "hard link", "dangling link", "pipe", "folder"])
def test_what_is_no_plain_file_is_neither_written_nor_waited_for(
    tmp_path: Path, name: str, what: str
) -> None:
    private, other = tmp_path / "private", tmp_path / "reports.csv"
    private.mkdir()
    other.write_text("uid,report\n")
    place = private / name
    if what == "link":
        place.symlink_to(other)
    elif what == "hard link":
        place.hardlink_to(other)
    elif what == "dangling link":
        place.symlink_to(tmp_path / "paused")
    elif what == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(AuditError, match="cannot be written or read"):
        append(private, "sent", {})
    if name == AUDIT_FILE:
        with pytest.raises(AuditError, match="cannot be written or read"):
            read_log(private)
    assert other.read_text() == "uid,report\n"
    assert not (tmp_path / "paused").exists()


@pytest.fixture
def noted(tmp_path: Path) -> tuple[Path, Path]:
    """A log of three entries whose end is noted, and the note."""
    private, end = tmp_path / "private", tmp_path / "state" / END_FILE
    for number in range(3):
        with writing(private, end) as log:
            log.append("sent", {"round": number})
    return private, end


@pytest.mark.parametrize("how", ["removed", "cut", "anew"])
def test_a_log_without_the_end_that_was_noted_takes_no_entry(noted: tuple[Path, Path], how: str) -> None:
    private, end = noted
    content = lines(private)
    (private / AUDIT_FILE).unlink()
    if how == "cut":
        rewrite(private, content[:2])
    elif how == "anew":
        for number in range(4):
            append(private, "sent", {"round": 10 + number})
    before = read_log(private)
    told = "does not hold entry 3, which this node wrote last"
    with pytest.raises(AuditError, match=told), writing(private, end):
        raise AssertionError("the log was given out")
    assert read_log(private) == before


def test_entries_of_others_may_follow_the_end_that_was_noted(noted: tuple[Path, Path]) -> None:
    private, end = noted
    append(private, "forget-begun", {})
    append(private, "forget-done", {})
    with writing(private, end) as log:
        log.append("sent", {"round": 3})
    rewrite(private, lines(private)[:5])
    told = "ends with entry 5 and does not hold entry 6"
    with pytest.raises(AuditError, match=told), writing(private, end):
        raise AssertionError("the log was given out")


def test_a_log_whose_end_was_never_noted_is_taken_as_it_is(log: Path, tmp_path: Path) -> None:
    end = tmp_path / "state" / END_FILE
    with writing(log, end) as opened:
        opened.append("sent", {})
    assert json.loads(end.read_text())["number"] == 5


def test_a_loss_that_the_admin_accepts_is_an_entry_and_the_log_goes_on(noted: tuple[Path, Path]) -> None:
    private, end = noted
    assert accept_end(private, end) is None
    last = read_log(private)[-1]
    rewrite(private, lines(private)[:1])
    accepted = accept_end(private, end)
    assert accepted is not None
    held = read_log(private)
    assert [entry.kind for entry in held] == ["sent", "end-accepted"]
    assert held[1] == accepted
    assert accepted.fields == {
        "noted": {"number": 3, "digest": last.digest},
        "held": {"number": 1, "digest": held[0].digest},
    }
    with writing(private, end) as log:
        log.append("sent", {})
    assert len(read_log(private)) == 3


def test_a_log_that_was_changed_is_not_accepted(noted: tuple[Path, Path]) -> None:
    private, end = noted
    rewrite(private, [lines(private)[0], lines(private)[2]])
    with pytest.raises(AuditError, match="line 2 holds entry 3"):
        accept_end(private, end)
    with pytest.raises(AuditError, match="a line was changed or damaged, or one was taken out"):
        list(AuditLog(private, end).newest_first())


@pytest.mark.parametrize("content", ["", "[]", '{"number": "3"}', "{"])
def test_a_damaged_note_stops_the_log(noted: tuple[Path, Path], content: str) -> None:
    private, end = noted
    end.write_text(content)
    with pytest.raises(AuditError, match="is damaged"), writing(private, end):
        pass
