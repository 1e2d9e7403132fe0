"""Tasks over HTTP."""

from tests.support.house import House


async def test_a_created_task_is_answered_with_its_place(house: House) -> None:
    await house.let_in("alice")

    answer = await house.create("alice", "key-1", {"a": 1}, reference="order 7")

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/tasks/{answer.json()['id']}"
