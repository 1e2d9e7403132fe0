"""Signing keys, and the nonces that their signatures use up."""

import asyncio
from dataclasses import replace

import pytest

from app.clock import Timestamp, later
from app.domain.keys import SigningKey
from app.domain.users import User
from app.errors import ConstraintViolated, Refusal
from app.ids import new_id
from app.security import nonces
from app.security.nonces import prune_nonces
from app.security.signatures import SKEW_SECONDS, WINDOW_SECONDS
from app.unit import UnitOfWork
from tests.db.records import AFTER, LAST, Database
from tests.support.database import NOW

PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
SOON = later(NOW, WINDOW_SECONDS + SKEW_SECONDS)


def a_key(user: User, *, key_id: str | None = None) -> SigningKey:
    """Make a key that is stored nowhere."""
    return SigningKey(
        id=key_id or new_id(),
        user_id=user.id,
        subject=user.subject,
        public_key=PUBLIC_KEY,
        name="the parser's",
        created_at=NOW,
        revoked_at=None,
    )


async def stored(database: Database, user: User | None = None) -> SigningKey:
    """Store a key."""
    key = a_key(user or await database.user(f"{new_id()}@example.com"))
    await database.write(lambda work: work.signing_keys.add(key))
    return key


async def take(database: Database, key_id: str, nonce: str = "nonce", expires_at: Timestamp = SOON) -> bool:
    """Use a nonce up."""
    return await database.write(lambda work: work.nonces.take(key_id=key_id, nonce=nonce, expires_at=expires_at))


async def left(database: Database) -> list[str]:
    """Return the nonces that are kept."""
    return sorted(row["nonce"] for row in await database.rows("SELECT nonce FROM nonces"))


# Keys ----------------------------------------------------------------------------------------------------------------


async def test_a_key_is_found_as_it_was_stored_with_its_users_subject(database: Database) -> None:
    user = await database.user("integration:parser")

    key = await stored(database, user)

    assert await database.read(lambda work: work.signing_keys.by_id(key.id)) == key
    assert key.subject == "integration:parser"
    assert await database.read(lambda work: work.signing_keys.by_id(new_id())) is None


async def test_a_key_is_revoked_once_and_stays(database: Database) -> None:
    key, other = await stored(database), await stored(database)

    first = await database.write(lambda work: work.signing_keys.revoke(key.id, revoked_at=AFTER))
    again = await database.write(lambda work: work.signing_keys.revoke(key.id, revoked_at=later(AFTER, 1)))
    nobody = await database.write(lambda work: work.signing_keys.revoke(new_id(), revoked_at=AFTER))

    assert (first, again, nobody) == (True, False, False)
    assert await database.read(lambda work: work.signing_keys.by_id(key.id)) == replace(key, revoked_at=AFTER)
    assert await database.read(lambda work: work.signing_keys.by_id(other.id)) == other


async def test_a_key_is_live_until_it_is_revoked(database: Database) -> None:
    key = await stored(database)

    before = await database.read(lambda work: work.signing_keys.is_live(key.id))
    await database.write(lambda work: work.signing_keys.revoke(key.id, revoked_at=AFTER))
    after = await database.read(lambda work: work.signing_keys.is_live(key.id))

    assert (before, after) == (True, False)
    assert await database.read(lambda work: work.signing_keys.is_live(new_id())) is False


async def test_live_keys_are_counted_by_user(database: Database) -> None:
    alice, bob, nobody = [await database.user(name) for name in ("alice", "bob", "nobody")]
    keys = [await stored(database, alice) for _ in range(3)]
    await stored(database, bob)
    await database.write(lambda work: work.signing_keys.revoke(keys[0].id, revoked_at=AFTER))

    async def count(user: User) -> int:
        return await database.read(lambda work: work.signing_keys.count_live(user.id))

    counts = [await count(user) for user in (alice, bob, nobody)]

    assert counts == [2, 1, 0]


async def test_keys_are_walked_newest_first_of_one_user_or_of_all(database: Database) -> None:
    alice, bob = await database.user("alice"), await database.user("bob")
    keys = [await stored(database, user) for user in (alice, bob, alice, bob, alice)]
    await database.write(lambda work: work.signing_keys.revoke(keys[0].id, revoked_at=AFTER))

    async def page(user_id: str | None, before: str) -> list[str]:
        found = await database.read(lambda work: work.signing_keys.page(user_id=user_id, before=before, limit=2))
        return [key.id for key in found]

    async def walk(user_id: str | None) -> list[str]:
        found: list[str] = []
        while ids := await page(user_id, found[-1] if found else LAST):
            found += ids
        return found

    assert await walk(None) == sorted((key.id for key in keys), reverse=True)
    assert await walk(alice.id) == sorted((key.id for key in keys[::2]), reverse=True)
    assert await walk(new_id()) == []


async def test_a_key_has_one_id_and_a_user_who_is_there(database: Database) -> None:
    key = await stored(database)

    with pytest.raises(ConstraintViolated) as twice:
        await database.write(lambda work: work.signing_keys.add(key))
    with pytest.raises(ConstraintViolated) as nobodys:
        await database.write(lambda work: work.signing_keys.add(replace(key, id=new_id(), user_id="nobody")))

    assert (twice.value.kind, nobodys.value.kind) == ("UNIQUE", "FOREIGN KEY")


# Nonces --------------------------------------------------------------------------------------------------------------


async def test_a_nonce_is_taken_once(database: Database) -> None:
    key = await stored(database)

    assert [await take(database, key.id) for _ in range(3)] == [True, False, False]
    assert await take(database, key.id, "other") is True


async def test_two_keys_may_use_the_same_nonce(database: Database) -> None:
    one, other = await stored(database), await stored(database)

    assert [await take(database, key.id) for key in (one, other, one, other)] == [True, True, False, False]


async def test_a_nonce_taken_again_with_another_end_keeps_the_first(database: Database) -> None:
    key = await stored(database)
    await take(database, key.id, expires_at=SOON)

    await take(database, key.id, expires_at=NOW)

    assert await database.rows("SELECT expires_at FROM nonces") == [{"expires_at": SOON}]


@pytest.mark.parametrize("key_id", ["revoked", "unknown"])
async def test_only_a_live_key_uses_nonces_up(database: Database, key_id: str) -> None:
    revoked = await stored(database)
    await database.write(lambda work: work.signing_keys.revoke(revoked.id, revoked_at=AFTER))

    assert await take(database, {"revoked": revoked.id, "unknown": new_id()}[key_id]) is False

    assert await left(database) == []


async def test_of_many_who_take_a_nonce_at_once_one_gets_it(database: Database) -> None:
    key = await stored(database)

    taken = await asyncio.gather(*(take(database, key.id) for _ in range(20)))

    assert sorted(taken) == [False] * 19 + [True]


async def test_a_nonce_outlives_a_part_of_the_unit_that_is_refused(database: Database) -> None:
    key = await stored(database)

    async def body(work: UnitOfWork) -> object:
        assert await work.nonces.take(key_id=key.id, nonce="nonce", expires_at=SOON)

        async def refused() -> None:
            raise Refusal

        return await work.protect(refused)

    outcome = await database.store.write(body)

    assert isinstance(outcome, Refusal)
    assert await left(database) == ["nonce"]


async def test_a_unit_that_fails_uses_nothing_up(database: Database) -> None:
    key = await stored(database)

    async def body(work: UnitOfWork) -> None:
        assert await work.nonces.take(key_id=key.id, nonce="nonce", expires_at=SOON)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.store.write(body)

    assert await left(database) == []


async def test_what_has_run_out_is_forgotten_and_no_more_than_asked(database: Database) -> None:
    key = await stored(database)
    for number in range(5):
        await take(database, key.id, f"old-{number}", later(NOW, number))
    await take(database, key.id, "new", later(NOW, 5))

    until = later(NOW, 5)
    counts = [await database.write(lambda work: work.nonces.prune(until=until, limit=2)) for _ in range(4)]

    assert counts == [2, 2, 1, 0]
    assert await left(database) == ["new"]


async def test_pruning_takes_the_oldest_first(database: Database) -> None:
    key = await stored(database)
    for number in (3, 1, 2):
        await take(database, key.id, f"old-{number}", later(NOW, number))

    await database.write(lambda work: work.nonces.prune(until=AFTER, limit=2))

    assert await left(database) == ["old-3"]


async def test_the_same_nonce_of_another_key_is_not_forgotten_with_it(database: Database) -> None:
    one, other = await stored(database), await stored(database)
    await take(database, one.id, expires_at=NOW)
    await take(database, other.id, expires_at=AFTER)

    await database.write(lambda work: work.nonces.prune(until=AFTER, limit=10))

    assert await database.rows("SELECT key_id FROM nonces") == [{"key_id": other.id}]


async def test_pruning_keeps_what_ran_out_less_than_a_window_ago(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonces, "PRUNE_LIMIT", 2)
    key = await stored(database)
    for number in range(5):
        await take(database, key.id, f"old-{number}", later(NOW, -WINDOW_SECONDS - 1 - number))
    await take(database, key.id, "edge", later(NOW, -WINDOW_SECONDS))
    await take(database, key.id, "new", SOON)

    pruned = await prune_nonces(database.store)

    assert pruned == 5
    assert await left(database) == ["edge", "new"]
