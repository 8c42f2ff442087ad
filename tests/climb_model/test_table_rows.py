"""Single rows of a table change, every other byte stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from climb_model.data.exam import DataError
from climb_model.data.table_rows import Change, change_rows
from climb_model.data.tables import Row


def without(uid: str) -> Change:
    def change(row: Row) -> Row | None:
        return None if row.get("uid") == uid else row

    return change


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("UID,Report\na,x\nb,y\n", "UID,Report\nb,y\n"),
        ("UID,Report\r\nb,y\r\na,x", "UID,Report\r\nb,y\r\n"),
        ("\ufeffReport;UID\n\"z\";'b'\n  x ; a \n", "\ufeffReport;UID\n\"z\";'b'\n"),
        ('\nuid\tReport\n\na\t"one\n\nb\ttwo"\nb\t"y ""z"" "\n\n', '\nuid\tReport\n\nb\t"y ""z"" "\n\n'),
        ("UID,Split,Fold\na,train,0\nb,val,0\na,val,1\n", "UID,Split,Fold\nb,val,0\n"),
        ("UID,Report\nb\na\na,x,more\n", "UID,Report\nb\n"),
    ],
)
def test_the_named_rows_go_and_the_other_bytes_stay(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(before.encode())
    content, number = change_rows(path, without("a"))
    assert content.decode() == after
    assert number >= 1
    assert path.read_bytes() == before.encode()


def test_without_the_row_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'UID;Report\n b ;"x"\n')
    assert change_rows(path, without("a")) == (path.read_bytes(), 0)


def test_a_changed_cell_leaves_its_neighbours_and_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'A;L;R\r\n1;"x;y"; z \r\n2;u;v\r\n')
    content, number = change_rows(path, lambda row: row | {"l": ""} if row["a"] == "1" else row)
    assert content == b"A;L;R\r\n1;; z \r\n2;u;v\r\n"
    assert number == 1


@pytest.mark.parametrize(("content", "told"), [(b"UID\n\xff\n", "not UTF-8"), (b'UID\n"a\n', "line 2")])
def test_a_table_whose_rows_cannot_be_told_apart_is_refused(
    content: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "Geheim" / "t.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        change_rows(path, without("a"))
    assert "Geheim" not in caught.value.public
