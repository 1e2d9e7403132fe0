"""Users, and subjects who ask to become users (design §1, §6)."""

import asyncio
from dataclasses import replace

import pytest

from app.domain.access import AccessRequest, AccessStatus
from app.domain.users import Role
from app.errors import ConstraintViolated
from app.ids import new_id
from tests.db.records import AFTER, LAST, Database, a_user
from tests.support.database import NOW

# Users ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("is_active", [True, False])
async def test_a_user_is_found_as_it_was_stored(database: Database, role: Role, is_active: bool) -> None:
    user = a_user(role=role, is_active=is_active)

    assert await database.write(lambda work: work.users.add(user)) is True

    assert await database.read(lambda work: work.users.by_id(user.id)) == user
    assert await database.read(lambda work: work.users.by_subject(user.subject)) == user


async def test_a_subject_becomes_a_user_once(database: Database) -> None:
    first = await database.user("alice")

    assert await database.write(lambda work: work.users.add(a_user("alice", Role.ADMIN))) is False

    assert await database.read(lambda work: work.users.by_subject("alice")) == first


async def test_subjects_differ_by_case(database: Database) -> None:
    await database.user("alice")

    assert await database.read(lambda work: work.users.by_subject("Alice")) is None
    assert await database.write(lambda work: work.users.add(a_user("Alice"))) is True


async def test_nobody_is_none(database: Database) -> None:
    assert await database.read(lambda work: work.users.by_id("nobody")) is None
    assert await database.read(lambda work: work.users.by_subject("nobody")) is None


async def test_what_may_change_of_a_user_is_replaced_and_the_rest_stays(database: Database) -> None:
    user, other = await database.user("alice"), await database.user("bob")

    await database.write(
        lambda work: work.users.change(
            user.id, role=Role.ADMIN, scopes=frozenset({"users.read"}), is_active=False, updated_at=AFTER
        )
    )

    assert await database.read(lambda work: work.users.by_id(user.id)) == replace(
        user, role=Role.ADMIN, scopes=frozenset({"users.read"}), is_active=False, updated_at=AFTER
    )
    assert await database.read(lambda work: work.users.by_id(other.id)) == other


async def test_the_active_super_admins_are_known(database: Database) -> None:
    active = await database.user("root", Role.SUPER_ADMIN)
    await database.user("admin", Role.ADMIN)
    asleep = a_user("asleep", Role.SUPER_ADMIN, is_active=False)
    await database.write(lambda work: work.users.add(asleep))

    assert await database.write(lambda work: work.users.active_super_admin_ids()) == [active.id]


async def test_users_are_walked_newest_first(database: Database) -> None:
    made = sorted([(await database.user(f"user-{number}")).id for number in range(5)])

    first = await database.read(lambda work: work.users.page(before=LAST, limit=2))
    rest = await database.read(lambda work: work.users.page(before=first[-1].id, limit=10))

    assert [user.id for user in (*first, *rest)] == made[::-1]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [("role = 'king'", "users_role_known"), ("is_active = 2", "users_is_active_boolean")],
)
async def test_a_user_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    await database.user()

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE users SET {change} RETURNING id")

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)


async def test_an_id_names_one_user(database: Database) -> None:
    user = await database.user("alice")

    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.users.add(replace(user, subject="bob")))

    assert caught.value.kind == "UNIQUE"


# Access requests -----------------------------------------------------------------------------------------------------


async def ask(database: Database, subject: str = "carol", reason: str | None = "I work here.") -> AccessRequest:
    """Ask for access."""
    return await database.write(
        lambda work: work.access_requests.ask(
            request_id=new_id(), requested_by=subject, reason=reason, public_key=None, requested_at=NOW
        )
    )


async def resolve(database: Database, request_id: str, status: AccessStatus, by: str) -> AccessRequest | None:
    """Answer a request."""
    return await database.write(
        lambda work: work.access_requests.resolve(request_id, status=status, resolved_at=AFTER, resolved_by=by)
    )


async def test_a_request_is_found_as_it_was_asked(database: Database) -> None:
    request = await ask(database)

    assert request == AccessRequest(
        id=request.id,
        requested_by="carol",
        reason="I work here.",
        public_key=None,
        status=AccessStatus.PENDING,
        requested_at=NOW,
        resolved_at=None,
        resolved_by=None,
    )
    assert await database.read(lambda work: work.access_requests.by_id(request.id)) == request
    assert await database.read(lambda work: work.access_requests.by_id("nobody's")) is None


async def test_a_subject_has_one_pending_request(database: Database) -> None:
    first = await ask(database)

    again = await ask(database, reason="Please!")

    assert again == first
    assert await database.read(lambda work: work.access_requests.count_pending()) == 1


async def test_requests_that_race_become_one(database: Database) -> None:
    asked = await asyncio.gather(*(ask(database) for _ in range(20)))

    assert len({request.id for request in asked}) == 1


async def test_a_second_pending_row_is_refused_by_the_database_itself(database: Database) -> None:
    admin = await database.user("root", Role.ADMIN)
    first = await ask(database)
    await resolve(database, first.id, AccessStatus.REJECTED, admin.id)
    await ask(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(
            "UPDATE access_requests SET status = 'pending', resolved_at = NULL, resolved_by = NULL"
            " WHERE id = :id RETURNING id",
            id=first.id,
        )

    assert caught.value.kind == "UNIQUE"


@pytest.mark.parametrize("decision", [AccessStatus.APPROVED, AccessStatus.REJECTED])
async def test_a_pending_request_is_answered_once(database: Database, decision: AccessStatus) -> None:
    admin = await database.user("root", Role.ADMIN)
    request = await ask(database)

    answered = await resolve(database, request.id, decision, admin.id)
    again = [await resolve(database, request.id, other, admin.id) for other in AccessStatus if other != "pending"]

    assert answered == replace(request, status=decision, resolved_at=AFTER, resolved_by=admin.id)
    assert again == [None, None]
    assert await database.read(lambda work: work.access_requests.by_id(request.id)) == answered
    assert await database.read(lambda work: work.access_requests.count_pending()) == 0


async def test_who_was_answered_may_ask_anew(database: Database) -> None:
    admin = await database.user("root", Role.ADMIN)
    first = await ask(database)
    await resolve(database, first.id, AccessStatus.REJECTED, admin.id)

    second = await ask(database)

    assert second.id != first.id
    assert second.status is AccessStatus.PENDING


async def test_a_request_that_is_not_there_is_not_answered(database: Database) -> None:
    admin = await database.user("root", Role.ADMIN)

    assert await resolve(database, "nobody's", AccessStatus.APPROVED, admin.id) is None


async def test_requests_are_walked_newest_first_all_or_by_status(database: Database) -> None:
    admin = await database.user("root", Role.ADMIN)
    asked = [await ask(database, f"subject-{number}") for number in range(6)]
    for request in asked[::2]:
        await resolve(database, request.id, AccessStatus.APPROVED, admin.id)

    async def page(status: AccessStatus | None, before: str) -> list[str]:
        found = await database.read(lambda work: work.access_requests.page(before=before, limit=2, status=status))
        return [request.id for request in found]

    async def walk(status: AccessStatus | None) -> list[str]:
        found: list[str] = []
        while ids := await page(status, found[-1] if found else LAST):
            found += ids
        return found

    ids = [request.id for request in asked]
    assert await walk(None) == sorted(ids, reverse=True)
    assert await walk(AccessStatus.APPROVED) == sorted(ids[::2], reverse=True)
    assert await walk(AccessStatus.PENDING) == sorted(ids[1::2], reverse=True)
    assert await walk(AccessStatus.REJECTED) == []


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'lost'", "access_requests_status_known"),
        ("status = 'approved'", "access_requests_resolved_whole"),
        ("resolved_at = 'a'", "access_requests_resolved_whole"),
        ("status = 'approved', resolved_at = 'a'", "access_requests_resolved_whole"),
    ],
)
async def test_a_request_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    await ask(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE access_requests SET {change} RETURNING id")

    assert caught.value.kind == "CHECK"
    assert caught.value.constraint in {constraint, "access_requests_resolved_whole"}


async def test_a_request_is_answered_by_a_user(database: Database) -> None:
    request = await ask(database)

    with pytest.raises(ConstraintViolated) as caught:
        await resolve(database, request.id, AccessStatus.APPROVED, "nobody")

    assert caught.value.kind == "FOREIGN KEY"
