"""An audit's trail for tests: deeds to keep, and a store whose events are under seals of given sizes."""

from typing import Any

from app.domain.audit import Action, Author, Deed, Seal, TargetKind
from app.services import sealing
from app.unit import Store, UnitOfWork

ALICE = "00000000-0000-7000-8000-00000000a11c"
"""The id of a user who needs not exist: the audit has no foreign keys."""


def a_deed(number: int = 1, **changes: Any) -> Deed:
    """Return a deed that fills every column but `code`."""
    values: dict[str, Any] = {
        "author": Author(user_id=ALICE, subject="alice@example.com", request_id=f"request-{number}"),
        "action": Action.USER_CHANGED,
        "target_kind": TargetKind.USER,
        "target_id": f"target-{number}",
        "before": {"role": "user", "number": number},
        "after": {"role": "admin", "number": number},
        "reason": "She asked: “please”.",
    }
    return Deed(**(values | changes))


async def keep(store: Store, *deeds: Deed) -> None:
    """Keep deeds in one unit."""

    async def body(work: UnitOfWork) -> None:
        for deed in deeds:
            await work.audit_events.add(deed, at=work.now())

    await store.write(body)


async def keep_sealed(store: Store, *sizes: int) -> list[Seal]:
    """Keep so many deeds for each seal, and seal them."""
    made, number = [], 0
    for size in sizes:
        await keep(store, *(a_deed(number + each) for each in range(1, size + 1)))
        number += size
        sealed = await sealing.seal_next(store)
        assert sealed is not None
        assert sealed.events == size
        made.append(sealed)
    return made
