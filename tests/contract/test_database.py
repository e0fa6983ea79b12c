"""What every kind of database promises, checked for each of them. The kinds are in `tests/support/kinds.py`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from atoll.database.ports import Database, Kept, KeyInUse, Lease, LeaseLost, Parked
from atoll.errors import Bug, DatabaseOutage, SystemMistake
from tests.support.kinds import KINDS, Kind, Told, kind_of, write
from tests.support.mongodb import RunningMongod
from tests.support.postgresql import RunningPostgreSQL
from tests.support.waiting import until

FOREVER_S = 60.0


@contextlib.asynccontextmanager
async def opened(kind: Kind) -> AsyncIterator[Database]:
    """As another process would have it."""
    database = kind.database()
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(kind: Kind) -> AsyncIterator[Database]:
    async with opened(kind) as database:
        await database.migrate(None)
        await kind.create(database)
        yield database


async def rows(kind: Kind, database: Database) -> list[tuple[str, int]]:
    async with database.reader() as reader:
        return await kind.rows(reader)


async def told(database: Database) -> list[str]:
    return [row.body.decode() for row in await database.journal.outbox(100_000)]


async def taken(database: Database, source: str = "orders", owner: str = "one", duration_s: float = FOREVER_S) -> Lease:
    lease = await database.journal.take_lease(source, owner, duration_s)
    assert lease is not None
    return lease


# transactions


async def test_returning_commits(kind: Kind, database: Database) -> None:
    async with database.transaction() as tx:
        await kind.insert(tx, "a", 1)
        await kind.insert(tx, "a", 2)

    assert await rows(kind, database) == [("a", 1), ("a", 2)]


async def test_raising_rolls_everything_back(kind: Kind, database: Database) -> None:
    async def work() -> None:
        async with database.transaction() as tx:
            await kind.insert(tx, "a", 1)
            await tx.publish(Told("a", 1))
            raise LookupError

    with pytest.raises(LookupError):
        await work()

    assert await rows(kind, database) == []
    assert await told(database) == []


async def test_a_transaction_sees_its_own_changes_and_a_reader_only_what_is_committed(kind: Kind, database: Database) -> None:
    async with database.transaction(patient=True) as tx:
        await kind.insert(tx, "a", 1)
        assert await kind.rows(tx) == [("a", 1)]
        assert await rows(kind, database) == []


async def test_a_transaction_that_has_ended_refuses_statements(kind: Kind, database: Database) -> None:
    async with database.transaction() as tx:
        await kind.insert(tx, "a", 1)

    with pytest.raises(Bug, match="ended"):
        await kind.insert(tx, "a", 2)
    with pytest.raises(Bug, match="ended"):
        await tx.publish(Told("a", 2))


async def test_many_transactions_at_once_all_commit(kind: Kind, database: Database) -> None:
    async def work(n: int) -> None:
        async with database.transaction() as tx:
            await kind.insert(tx, "a", n)

    await asyncio.gather(*(work(n) for n in range(100)))

    assert await rows(kind, database) == [("a", n) for n in range(100)]


async def test_one_that_fails_among_many_undoes_only_itself(kind: Kind, database: Database) -> None:
    async def work(n: int) -> None:
        async with database.transaction() as tx:
            await kind.insert(tx, "a", n)
            await tx.publish(Told("a", n))
            if n % 3 == 0:
                raise LookupError

    await asyncio.gather(*(work(n) for n in range(30)), return_exceptions=True)

    kept = [n for n in range(30) if n % 3]
    assert await rows(kind, database) == [("a", n) for n in kept]
    assert sorted(await told(database)) == sorted(f"a:{n}" for n in kept)


async def test_a_cancelled_transaction_is_rolled_back_and_the_next_one_works(kind: Kind, database: Database) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with database.transaction(patient=True) as tx:
            await kind.insert(tx, "a", 1)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as tx:
        await kind.insert(tx, "b", 1)

    assert await rows(kind, database) == [("b", 1)]


async def test_a_reader_can_change_nothing(kind: Kind, database: Database) -> None:
    async with database.reader() as reader:
        with pytest.raises(Bug, match="reader can't write"):
            await kind.insert(reader, "a", 1)
    async with database.reader() as reader:
        with pytest.raises(Bug, match="reader can't publish"):
            await reader.publish(Told("a", 1))

    assert await rows(kind, database) == []
    assert await told(database) == []


# the outbox


async def test_events_are_published_with_the_commit_in_call_order(kind: Kind, database: Database) -> None:
    async with database.transaction() as tx:
        await kind.insert(tx, "a", 1)
        for n in range(5):
            await tx.publish(Told("a", n))
    async with database.transaction() as tx:
        await tx.publish(Told("b", 5))

    assert await told(database) == ["a:0", "a:1", "a:2", "a:3", "a:4", "b:5"]


async def test_an_outbox_row_comes_back_as_it_was_written(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.publish(Told("it's a \\ key, ü", 1))

    (row,) = await database.journal.outbox(10)
    assert row.key == "it's a \\ key, ü"
    assert (row.subject, row.headers, row.body) == (
        "event.test.told.0",
        b"ce-type: test.told\r\n",
        "it's a \\ key, ü:1".encode(),
    )
    assert len(row.id) == 36


async def test_positions_rise_in_commit_order_per_key_under_concurrency(kind: Kind, database: Database) -> None:
    async def work(key: str) -> None:
        for _ in range(10):
            async with database.transaction() as tx:
                n = await kind.raise_counter(tx, key)
                await tx.publish(Told(key, n))

    await asyncio.gather(*(work(key) for key in "abc" for _ in range(4)))

    events = await told(database)
    for key in "abc":
        assert [event for event in events if event.startswith(key)] == [f"{key}:{n}" for n in range(1, 41)]


async def test_the_outbox_gives_the_oldest_rows_and_forgets_the_removed(database: Database) -> None:
    async with database.transaction() as tx:
        for n in range(5):
            await tx.publish(Told("a", n))

    first = await database.journal.outbox(2)
    await database.journal.remove_outbox(first)

    assert [row.body for row in first] == [b"a:0", b"a:1"]
    assert first[0].position < first[1].position
    assert await told(database) == ["a:2", "a:3", "a:4"]


async def test_removing_rows_again_takes_nothing_that_came_later(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.publish(Told("a", 1))
    removed = await database.journal.outbox(10)
    await database.journal.remove_outbox(removed)
    async with database.transaction() as tx:
        await tx.publish(Told("a", 2))

    await database.journal.remove_outbox(removed)

    assert await told(database) == ["a:2"]


async def test_the_backlog_tells_how_much_waits_and_for_how_long(database: Database) -> None:
    empty = await database.journal.backlog()
    assert (empty.count, empty.oldest_age_s) == (0, 0.0)
    async with database.transaction() as tx:
        await tx.publish(Told("a", 1))
        await tx.publish(Told("a", 2))

    backlog = await database.journal.backlog()
    assert backlog.count == 2
    assert 0.0 <= backlog.oldest_age_s < 30.0


async def test_the_relay_is_told_after_a_commit_with_events_and_only_then(kind: Kind, database: Database) -> None:
    seen_at_call: list[int] = []
    calls: list[None] = []
    database.on_published(lambda: calls.append(None))

    async with database.transaction() as tx:
        await kind.insert(tx, "a", 1)
    with contextlib.suppress(LookupError):
        async with database.transaction() as tx:
            await tx.publish(Told("a", 1))
            raise LookupError
    assert calls == []

    async with database.transaction() as tx:
        await tx.publish(Told("a", 2))
        seen_at_call.append(len(calls))
    await until(lambda: calls)
    assert seen_at_call == [0]
    assert await told(database) == ["a:2"]


# leases and cursors


async def test_a_lease_is_made_at_first_use(database: Database) -> None:
    lease = await taken(database)

    assert (lease.source, lease.owner, lease.identity, lease.sequence, lease.released) == ("orders", "one", "", 0, True)


async def test_a_lease_that_is_held_is_nobody_elses(database: Database) -> None:
    await taken(database)

    assert await database.journal.take_lease("orders", "two", FOREVER_S) is None
    assert await database.journal.take_lease("payments", "two", FOREVER_S) is not None


async def test_the_same_owner_retakes_its_lease_at_once_and_fences_its_former_self(kind: Kind, database: Database) -> None:
    before = await taken(database)
    after = await taken(database)

    assert after.epoch > before.epoch
    assert not after.released
    with pytest.raises(LeaseLost):
        async with database.transaction() as tx:
            await database.journal.advance(tx, before, 1, ["e1"])


async def test_an_expired_lease_is_taken_by_another(database: Database) -> None:
    before = await taken(database, duration_s=0.05)

    after = await until(lambda: database.journal.take_lease("orders", "two", FOREVER_S))

    assert after is not None
    assert after.epoch > before.epoch
    assert not after.released


async def test_a_released_lease_is_free_and_says_so(database: Database) -> None:
    await database.journal.release_lease(await taken(database))

    assert (await taken(database, owner="two")).released


async def test_a_lease_that_was_lost_is_not_released_by_its_former_holder(database: Database) -> None:
    before = await taken(database, duration_s=0.05)
    await until(lambda: database.journal.take_lease("orders", "two", FOREVER_S))

    await database.journal.release_lease(before)

    assert await database.journal.take_lease("orders", "three", FOREVER_S) is None


async def test_renewing_tells_which_leases_are_still_held(database: Database) -> None:
    kept, lost = await taken(database, "orders"), await taken(database, "payments", duration_s=0.05)
    await until(lambda: database.journal.take_lease("payments", "two", FOREVER_S))

    assert await database.journal.renew_leases([kept, lost], FOREVER_S) == {"orders"}
    assert await database.journal.renew_leases([], FOREVER_S) == set()


async def test_a_renewed_lease_does_not_expire(database: Database) -> None:
    lease = await taken(database, duration_s=0.2)
    assert await database.journal.renew_leases([lease], FOREVER_S) == {"orders"}
    short = await taken(database, "clock", duration_s=0.2)

    await until(lambda: database.journal.take_lease("clock", "two", FOREVER_S))

    assert short.owner == "one"
    assert await database.journal.take_lease("orders", "two", FOREVER_S) is None


async def test_a_cursor_starts_again_for_another_stream(database: Database) -> None:
    lease = await taken(database)

    moved = await database.journal.restart_cursor(lease, "stream-2", 7)

    assert (moved.identity, moved.sequence, moved.epoch) == ("stream-2", 7, lease.epoch)
    again = await taken(database)
    assert (again.identity, again.sequence) == ("stream-2", 7)
    with pytest.raises(LeaseLost):
        await database.journal.restart_cursor(lease, "stream-3", 0)


# the inbox


async def test_what_was_handled_is_seen_and_the_cursor_has_moved(database: Database) -> None:
    lease = await taken(database)
    async with database.transaction(patient=True) as tx:
        assert await database.journal.seen(tx, ["e1", "e2"]) == set()
        moved = await database.journal.advance(tx, lease, 9, ["e1", "e2"])

    assert moved == replace(lease, sequence=9)
    async with database.transaction() as tx:
        assert await database.journal.seen(tx, ["e2", "e3", "e1"]) == {"e1", "e2"}
    async with database.reader() as reader:
        assert await database.journal.seen(reader, ["e1"]) == {"e1"}
    assert (await taken(database)).sequence == 9


async def test_it_is_told_when_an_event_was_handled_and_where_the_cursor_stands(database: Database) -> None:
    assert await database.journal.handled_at("e1") is None
    assert await database.journal.position("elsewhere") is None
    lease = await taken(database)
    before = time.time()
    async with database.transaction(patient=True) as tx:
        await database.journal.advance(tx, lease, 9, ["e1"])

    handled_at = await database.journal.handled_at("e1")

    assert handled_at is not None
    assert abs(handled_at - before) < 60
    assert await database.journal.position(lease.source) == 9


async def test_what_was_rolled_back_was_not_handled(kind: Kind, database: Database) -> None:
    lease = await taken(database)

    async def work() -> None:
        async with database.transaction() as tx:
            await kind.insert(tx, "a", 1)
            await database.journal.advance(tx, lease, 9, ["e1"])
            raise LookupError

    with pytest.raises(LookupError):
        await work()

    async with database.reader() as reader:
        assert await database.journal.seen(reader, ["e1"]) == set()
    assert (await taken(database)).sequence == 0


async def test_a_late_holder_commits_nothing(kind: Kind, database: Database) -> None:
    late = await taken(database, duration_s=0.05)
    await until(lambda: database.journal.take_lease("orders", "two", FOREVER_S))

    async def work() -> None:
        async with database.transaction() as tx:
            await kind.insert(tx, "a", 1)
            await tx.publish(Told("a", 1))
            await database.journal.advance(tx, late, 1, ["e1"])

    with pytest.raises(LeaseLost):
        await work()

    assert await rows(kind, database) == []
    assert await told(database) == []
    async with database.reader() as reader:
        assert await database.journal.seen(reader, ["e1"]) == set()


async def test_a_cursor_that_has_moved_is_not_moved_from_where_it_was(kind: Kind, database: Database) -> None:
    lease = await taken(database)
    async with database.transaction() as tx:
        await database.journal.advance(tx, lease, 5, ["e1"])

    async def work() -> None:
        async with database.transaction() as tx:
            await kind.insert(tx, "a", 1)
            await database.journal.advance(tx, lease, 6, ["e2"])

    with pytest.raises(LeaseLost):
        await work()

    assert await rows(kind, database) == []


async def test_the_inbox_forgets_what_is_old_enough(database: Database) -> None:
    lease = await taken(database)
    async with database.transaction() as tx:
        await database.journal.advance(tx, lease, 5, ["e1", "e2"])

    assert await database.journal.forget_inbox(3600.0) == 0
    assert await until(lambda: database.journal.forget_inbox(0.0)) == 2
    async with database.reader() as reader:
        assert await database.journal.seen(reader, ["e1", "e2"]) == set()


# answers to requests that may be sent again


ANSWER = Kept(b"fingerprint", 201, b'[["content-type","application/json"]]', b'{"id":1}\xff')


async def test_an_answer_is_kept_with_the_change_that_it_tells_of(kind: Kind, database: Database) -> None:
    async with database.transaction(patient=True) as tx:
        assert await database.journal.claim(tx, "k1") is None
        await kind.insert(tx, "a", 1)
        await database.journal.keep(tx, "k1", ANSWER)

    async with opened(kind) as elsewhere, elsewhere.transaction(patient=True) as tx:
        assert await elsewhere.journal.claim(tx, "k1") == ANSWER
    async with database.transaction(patient=True) as tx:
        assert await database.journal.claim(tx, "k2") is None
    assert await rows(kind, database) == [("a", 1)]


async def test_what_was_rolled_back_was_not_answered(kind: Kind, database: Database) -> None:
    async def work() -> None:
        async with database.transaction(patient=True) as tx:
            await database.journal.claim(tx, "k1")
            await kind.insert(tx, "a", 1)
            await database.journal.keep(tx, "k1", ANSWER)
            raise LookupError

    with pytest.raises(LookupError):
        await work()

    async with database.transaction(patient=True) as tx:
        assert await database.journal.claim(tx, "k1") is None
    assert await rows(kind, database) == []


async def test_of_all_processes_that_answer_one_request_one_has_the_effect(kind: Kind, database: Database) -> None:
    async def work(process: Database, n: int) -> Kept | None:
        async with process.transaction(patient=True) as tx:
            kept = await process.journal.claim(tx, "k1")
            if kept is None:
                await kind.insert(tx, "a", n)
                await process.journal.keep(tx, "k1", ANSWER)
            return kept

    async with opened(kind) as second, opened(kind) as third:
        processes = [database, second, third]
        outcomes = await asyncio.gather(*(work(processes[n % 3], n) for n in range(12)), return_exceptions=True)

    assert outcomes.count(None) == 1
    assert all(one is None or one == ANSWER or isinstance(one, KeyInUse) for one in outcomes)
    assert len(await rows(kind, database)) == 1


async def test_a_second_process_is_told_at_once_that_the_first_is_at_it(kind: Kind, database: Database) -> None:
    """SQLite has one process; should there be two for a moment, `keep` tells."""
    if kind.name == "sqlite":
        return

    async def claim(process: Database) -> Kept | None:
        async with process.transaction() as tx:
            return await process.journal.claim(tx, "k1")

    async with opened(kind) as other, database.transaction() as tx:
        await database.journal.claim(tx, "k1")
        await kind.insert(tx, "a", 1)
        with pytest.raises(KeyInUse):
            await claim(other)
        await database.journal.keep(tx, "k1", ANSWER)

    assert await claim(database) == ANSWER


async def test_whoever_claims_an_id_still_waits_for_its_row(kind: Kind, database: Database) -> None:
    """On MongoDB it is the first statement that waits for its document: a claim before it must not take that away."""

    async def work(n: int) -> None:
        async with database.transaction(patient=True) as tx:
            assert await database.journal.claim(tx, f"k{n}") is None
            await kind.raise_counter(tx, "a")
            await database.journal.keep(tx, f"k{n}", ANSWER)

    await asyncio.gather(*(work(n) for n in range(20)))

    async with database.transaction(patient=True) as tx:
        assert await kind.raise_counter(tx, "a") == 21
    async with database.transaction(patient=True) as tx:
        assert await database.journal.claim(tx, "k7") == ANSWER


async def test_an_answer_that_was_committed_outlives_its_process(kind: Kind, database: Database) -> None:
    crash("answered", kind)

    async with database.transaction(patient=True) as tx:
        assert await database.journal.claim(tx, "k1") == ANSWER
    assert await rows(kind, database) == [("a", 1)]


async def test_a_process_that_dies_while_it_answers_leaves_its_key_to_the_next(kind: Kind, database: Database) -> None:
    crash("answering", kind)

    async def claimed() -> bool:
        async with database.transaction(patient=True) as tx:
            return await database.journal.claim(tx, "k1") is None

    assert await until(lambda: settled(claimed))
    assert await rows(kind, database) == []


async def settled(claimed: Callable[[], Awaitable[bool]]) -> bool:
    """A server may not have noticed yet that its client is gone."""
    try:
        return await claimed()
    except KeyInUse:
        return False


async def test_answers_that_are_old_enough_are_forgotten(database: Database) -> None:
    async with database.transaction(patient=True) as tx:
        await database.journal.claim(tx, "k1")
        await database.journal.keep(tx, "k1", ANSWER)

    assert await database.journal.forget_answers(3600.0) == 0
    assert await until(lambda: database.journal.forget_answers(0.0)) == 1
    async with database.transaction(patient=True) as tx:
        assert await database.journal.claim(tx, "k1") is None


# attempts


async def test_attempts_count_from_one_until_the_event_is_handled(database: Database) -> None:
    lease = await taken(database)
    assert [await database.journal.begin_attempt("orders", "e1") for _ in range(3)] == [1, 2, 3]
    assert await database.journal.begin_attempt("orders", "e2") == 1

    async with database.transaction() as tx:
        await database.journal.advance(tx, lease, 1, ["e1"])

    assert await database.journal.begin_attempt("orders", "e1") == 1
    assert await database.journal.begin_attempt("orders", "e2") == 2


async def test_attempts_start_again_for_a_parked_event(database: Database) -> None:
    await database.journal.begin_attempt("orders", "e1")
    await park(database, [event("e1")])

    assert await database.journal.begin_attempt("orders", "e1") == 1


# parked events


def event(id: str, key: str = "a", sequence: int = 1, due_at: float = 0.0) -> Parked:
    return Parked(
        id, "orders", "orders.placed", key, sequence, b"headers", b"\x00body", 1, due_at, "waiting", "it broke", "trace"
    )


async def park(database: Database, events: Sequence[Parked]) -> None:
    async with database.transaction() as tx:
        for one in events:
            await database.journal.park(tx, one)


async def unpark(database: Database, id: str) -> bool:
    async with database.transaction() as tx:
        return await database.journal.unpark(tx, id)


async def due(database: Database) -> list[str]:
    return [one.id for one in await database.journal.due("orders", 100)]


async def test_a_parked_event_comes_back_as_it_was(database: Database) -> None:
    whole = replace(event("e1", due_at=12345.678), state="dead", attempts=6)
    await park(database, [whole])

    assert await database.journal.parked_event("e1") == whole
    assert await database.journal.parked() == [whole]
    assert await database.journal.parked_event("e2") is None


async def test_only_the_first_event_of_a_key_is_due_oldest_first(database: Database) -> None:
    await park(database, [event("a2", "a", 4), event("b1", "b", 3), event("a1", "a", 2), event("c1", "c", 1, due_at=9e12)])

    assert await due(database) == ["a1", "b1"]
    assert [one.id for one in await database.journal.due("orders", 1)] == ["a1"]
    assert await database.journal.due("payments", 100) == []
    assert await unpark(database, "a1")
    assert await due(database) == ["b1", "a2"]


async def test_a_dead_letter_or_one_not_yet_due_holds_its_key_back(database: Database) -> None:
    dead = replace(event("a1", "a", 1), state="dead")
    await park(database, [dead, event("a2", "a", 2), event("b1", "b", 3, due_at=9e12), event("b2", "b", 4)])

    assert await due(database) == []
    assert await database.journal.parked_keys("orders") == {"a", "b"}
    assert [one.id for one in await database.journal.parked("dead")] == ["a1"]


async def test_parking_again_replaces(database: Database) -> None:
    await park(database, [event("a1")])
    await park(database, [replace(event("a1"), attempts=2, due_at=9e12)])

    assert await due(database) == []
    assert [one.attempts for one in await database.journal.parked()] == [2]


async def test_unparking_says_whether_it_was_there(database: Database) -> None:
    await park(database, [event("a1")])

    assert await unpark(database, "a1")
    assert not await unpark(database, "a1")
    assert await database.journal.parked_keys("orders") == set()


async def test_the_next_due_time_is_that_of_the_first_head(database: Database) -> None:
    assert await database.journal.next_due_in("orders") is None
    await park(database, [replace(event("a1", "a", 1), state="dead"), event("a2", "a", 2)])
    assert await database.journal.next_due_in("orders") is None

    await park(database, [event("b1", "b", 3, due_at=9e12)])
    far = await database.journal.next_due_in("orders")
    assert far is not None
    assert far > 1e6

    await park(database, [event("c1", "c", 4)])
    assert await database.journal.next_due_in("orders") == 0


# migrations


async def test_migrations_are_applied_once_and_in_order(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    first, second = kind.migration(1, "first"), kind.migration(2, "second")
    async with opened(kind) as database:
        write(folder, first)
        assert await database.migrate(folder) == [first[0]]
        assert await database.migrate(folder) == []
        write(folder, second)
        assert await database.migrate(folder) == [second[0]]
        assert await kind.has_table(database, "first")
        assert await kind.has_table(database, "second")


async def test_what_is_pending_is_told_by_name_until_it_is_applied_and_nothing_is_changed_by_asking(
    kind: Kind, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    first, second = write(folder, kind.migration(1, "first")), kind.migration(2, "second")
    async with opened(kind) as database:
        before = await database.pending(folder)
        assert before[-1] == first.name
        assert len(before) > 1, "atoll's own"
        assert await database.pending(folder) == before
        assert await database.migrate(folder) == [first.name]
        assert await database.pending(folder) == []
        write(folder, second)
        assert await database.pending(folder) == [second[0]]
        first.write_text("-- another text")
        with pytest.raises(SystemMistake, match=first.name):
            await database.pending(folder)


async def test_an_older_replica_finds_nothing_pending_in_a_database_that_a_newer_one_has_migrated(
    kind: Kind, tmp_path: Path
) -> None:
    newer, older = tmp_path / "newer", tmp_path / "older"
    for number, folders in ((1, (newer, older)), (2, (newer,))):
        for folder in folders:
            write(folder, kind.migration(number, f"table_{number}"))
    async with opened(kind) as database:
        await database.migrate(newer)
        assert await database.pending(older) == []


async def test_two_processes_that_migrate_at_once_apply_each_migration_once(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    names = [write(folder, kind.migration(n, f"table_{n}")).name for n in range(1, 4)]
    async with opened(kind) as one, opened(kind) as two:
        applied = await asyncio.gather(one.migrate(folder), two.migrate(folder))

        assert sorted([*applied[0], *applied[1]]) == names
        assert await kind.has_table(two, "table_3")


async def refused(kind: Kind, folder: Path) -> str:
    async with opened(kind) as database:
        with pytest.raises(SystemMistake) as mistake:
            await database.migrate(folder)
        return str(mistake.value)


async def test_an_edited_migration_is_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    file = write(folder, kind.migration(1, "first"))
    async with opened(kind) as database:
        await database.migrate(folder)
    file.write_text(file.read_text() + "\n# changed" if file.suffix == ".py" else file.read_text() + "\n-- changed")

    text = await refused(kind, folder)

    assert file.name in text
    assert "edited" in text


async def test_two_migrations_with_one_number_are_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    names = [write(folder, kind.migration(1, table)).name for table in ("first", "other")]

    text = await refused(kind, folder)

    assert all(name in text for name in names)


async def test_a_gap_in_the_numbers_is_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    write(folder, kind.migration(1, "first"))
    third = write(folder, kind.migration(3, "third"))

    text = await refused(kind, folder)

    assert third.name in text
    assert "0002" in text


async def test_a_renamed_migration_is_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    file = write(folder, kind.migration(1, "first"))
    async with opened(kind) as database:
        await database.migrate(folder)
    file.rename(folder / f"0001_other{file.suffix}")

    assert file.name in await refused(kind, folder)


async def test_a_failing_migration_is_refused_by_name_and_can_be_corrected(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    write(folder, kind.migration(1, "first"))
    file = write(folder, kind.broken_migration(2, "second"))

    text = await refused(kind, folder)

    assert file.name in text
    file.write_text(kind.migration(2, "second")[1])
    async with opened(kind) as database:
        assert await database.migrate(folder) == [file.name]
        assert await kind.has_table(database, "first")
        assert await kind.has_table(database, "second")


async def test_an_older_replica_starts_beside_a_newer_one(kind: Kind, tmp_path: Path) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    for folder in (older, newer):
        write(folder, kind.migration(1, "first"))
    write(newer, kind.migration(2, "second"))
    async with opened(kind) as database:
        await database.migrate(newer)
        assert await database.migrate(older) == []


# when the world fails


async def test_what_cannot_be_reached_is_an_outage(kind: Kind) -> None:
    unreachable = kind_of(kind.name, kind.unreachable).database()

    with pytest.raises(DatabaseOutage):
        await unreachable.open()


async def test_a_database_that_is_open_answers_a_ping(database: Database) -> None:
    await database.ping()
    await database.close()
    with pytest.raises(DatabaseOutage):
        await database.ping()


def crash(case: str, kind: Kind) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.crashing", case, kind.name, kind.url], capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("case", ["in_the_middle", "before_commit"])
async def test_a_process_killed_in_a_transaction_leaves_nothing_half_done(kind: Kind, database: Database, case: str) -> None:
    crash(case, kind)

    assert await rows(kind, database) == []
    assert await told(database) == []


async def test_an_attempt_is_remembered_when_it_kills_the_process(kind: Kind, database: Database) -> None:
    crash("attempting", kind)

    assert await database.journal.begin_attempt("orders", "e1") == 2


async def test_what_was_acknowledged_survives_the_death_of_the_process(kind: Kind, database: Database) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.crashing", "under_load", kind.name, kind.url), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    acknowledged = [await child.stdout.readline() for _ in range(300)]
    child.kill()
    acknowledged += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()

    expected = {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}
    assert len(expected) >= 300
    found = [f"{key} {n}" for key, n in await rows(kind, database)]
    assert expected <= set(found)
    assert sorted(found) == sorted(event.replace(":", " ") for event in await told(database))


# servers


Server = RunningPostgreSQL | RunningMongod
SERVERS: dict[str, type[Server]] = {"postgresql": RunningPostgreSQL, "mongodb": RunningMongod}


@pytest.fixture(params=[name for name, kind in KINDS.items() if kind.engine in SERVERS])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Kind, Server]]:
    """A server of the test's own, which it may kill."""
    running = SERVERS[KINDS[request.param].engine].start(tmp_path)
    try:
        yield kind_of(request.param, running.database()), running
    finally:
        running.remove()


async def answers(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseOutage:
        return False
    return True


async def keep_writing(kind: Kind, database: Database, key: str, acknowledged: list[tuple[str, int]]) -> None:
    """Writes on through outages, and remembers what was acknowledged."""
    for n in range(1_000_000):
        try:
            async with database.transaction() as tx:
                await kind.insert(tx, key, n)
                await tx.publish(Told(key, n))
        except DatabaseOutage:
            await until(lambda: answers(database), timeout_s=30)
        else:
            acknowledged.append((key, n))


async def test_what_was_acknowledged_survives_the_servers_death_and_the_pool_recovers(
    server: tuple[Kind, Server],
) -> None:
    kind, running = server
    acknowledged: list[tuple[str, int]] = []
    async with opened(kind) as database:
        await database.migrate(None)
        await kind.create(database)
        work = [asyncio.create_task(keep_writing(kind, database, key, acknowledged)) for key in "abcdefgh"]
        for _ in range(2):
            enough = len(acknowledged) + 200
            await until(lambda enough=enough: len(acknowledged) > enough, timeout_s=30)  # type: ignore[misc]
            running.kill()
            await until(lambda: not_answering(database))
            await running.restart()
        enough = len(acknowledged) + 200
        await until(lambda: len(acknowledged) > enough, timeout_s=30)
        for task in work:
            task.cancel()
        await asyncio.wait(work)
        assert all(task.cancelled() for task in work)

        found = await rows(kind, database)
        assert set(acknowledged) <= set(found)
        assert len(set(found)) == len(found)
        assert sorted(f"{key}:{n}" for key, n in found) == sorted(await told(database))


async def not_answering(database: Database) -> bool:
    return not await answers(database)
