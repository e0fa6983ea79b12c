"""Migrations as files, before any database sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.database.migrations import Applied, Migration, failed, packaged, pending, read
from atoll.errors import SystemMistake


def write(folder: Path, *names: str) -> list[Migration]:
    for name in names:
        (folder / name).write_text(f"CREATE TABLE t_{name.partition('.')[0]} (id INTEGER);\n")
    return read(folder)


def applied(*migrations: Migration) -> dict[int, Applied]:
    return {one.number: Applied(one.number, one.name, one.checksum) for one in migrations}


def test_they_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert [one.name for one in write(tmp_path, "0002_b.sql", "0001_z.sql", "0003_a.sql")] == [
        "0001_z.sql",
        "0002_b.sql",
        "0003_a.sql",
    ]


def test_no_folder_has_none(tmp_path: Path) -> None:
    assert read(None) == []
    assert read(tmp_path / "missing") == []


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / ".0001_x.sql").write_text("")
    assert read(tmp_path) == []
    assert read(tmp_path, suffix=".py") == []


@pytest.mark.parametrize("name", ["orders.sql", "1_orders.sql", "0001-orders.sql", "0001_Orders.sql", "0001.sql"])
def test_a_file_without_a_proper_number_is_refused_with_an_example(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemMistake, match="has no number") as mistake:
        write(tmp_path, name)
    assert name in str(mistake.value)
    assert "0001_orders.sql" in mistake.value.hint


def test_numbers_start_at_one_and_have_no_gap(tmp_path: Path) -> None:
    with pytest.raises(SystemMistake, match=r"0002_b\.sql leaves a gap: number 0001"):
        write(tmp_path, "0002_b.sql")


def test_one_number_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(SystemMistake, match=r"0001_a\.sql and 0001_b\.sql"):
        write(tmp_path, "0001_a.sql", "0001_b.sql")


def test_what_was_applied_is_not_pending(tmp_path: Path) -> None:
    first, second = write(tmp_path, "0001_a.sql", "0002_b.sql")
    assert pending([first, second], {}) == [first, second]
    assert pending([first, second], applied(first)) == [second]
    assert pending([first, second], applied(first, second)) == []


def test_line_ends_do_not_count_as_an_edit(tmp_path: Path) -> None:
    (before,) = write(tmp_path, "0001_a.sql")
    (tmp_path / "0001_a.sql").write_bytes(before.text.replace("\n", "\r\n").encode())
    assert pending(read(tmp_path), applied(before)) == []


def test_one_that_began_outside_a_transaction_and_did_not_finish_runs_again_even_corrected(tmp_path: Path) -> None:
    (only,) = write(tmp_path, "0001_a.sql")
    assert pending([only], {1: Applied(1, only.name, "another", finished=False)}) == [only]


def test_the_first_line_says_that_a_file_runs_outside_a_transaction(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("-- atoll: no transaction\nCREATE INDEX CONCURRENTLY x ON y (z);\n")
    (tmp_path / "0002_b.sql").write_text("SELECT 1;\n-- atoll: no transaction\n")
    assert [one.transactional for one in read(tmp_path)] == [False, True]


def test_a_failure_names_file_line_and_consequence(tmp_path: Path) -> None:
    (only,) = write(tmp_path, "0001_a.sql")
    mistake = failed(only, ValueError("no such column"), 7)
    assert str(mistake).startswith(f"{tmp_path}/0001_a.sql:7: migration 0001_a.sql failed: no such column")
    assert "nothing of this file was applied" in mistake.hint


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_atolls_own_tables_come_as_migrations_too(kind: str) -> None:
    assert [one.number for one in packaged(kind)] == list(range(1, len(packaged(kind)) + 1))
    assert "outbox" in packaged(kind)[0].text


def test_an_empty_migration_is_refused_because_it_could_never_be_filled_in(tmp_path: Path) -> None:
    (tmp_path / "0001_orders.sql").write_text("-- what this changes\n/* nothing\nyet */ ;\n")

    with pytest.raises(SystemMistake, match=r"0001_orders.sql holds no statement"):
        pending(read(tmp_path), {})
