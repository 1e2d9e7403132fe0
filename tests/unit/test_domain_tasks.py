"""Tasks: which have ended, and what the command to create one means."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.tasks import CreateTask, TaskStatus

payloads = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(), max_size=5)
references = st.none() | st.text(max_size=20)


def command(**chosen: Any) -> CreateTask:
    """Make a command that differs from an ordinary one only in what is chosen."""
    ordinary: dict[str, Any] = {
        "task_id": "t1",
        "idem_key": "k1",
        "reference": "order-7",
        "payload": {"url": "https://example.com/1"},
        "first_stage": "parse",
    }
    return CreateTask.of(**(ordinary | chosen))


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (TaskStatus.OPEN, False),
        (TaskStatus.RUNNING, False),
        (TaskStatus.SUCCEEDED, True),
        (TaskStatus.FAILED, True),
        (TaskStatus.CANCELLED, True),
    ],
)
def test_a_task_has_ended_when_nothing_more_happens_by_itself(status: TaskStatus, ended: bool) -> None:
    assert status.is_ended is ended


def test_the_statuses_are_the_ones_that_are_stored() -> None:
    stored = [str(status) for status in TaskStatus]

    assert stored == ["open", "running", "succeeded", "failed", "cancelled"]


def test_a_command_carries_what_it_was_made_from() -> None:
    made = command(payload={"b": 1, "a": "é"})

    assert (made.task_id, made.idem_key, made.reference, made.first_stage) == ("t1", "k1", "order-7", "parse")
    assert made.payload_json == '{"a":"é","b":1}'


def test_the_fingerprint_stays_the_same_from_one_release_to_the_next() -> None:
    made = command(payload={"a": 1})

    assert made.fingerprint == hashlib.sha256(b'{"payload":{"a":1},"reference":"order-7"}').hexdigest()


@pytest.mark.parametrize("chosen", [{"task_id": "t2"}, {"idem_key": "k2"}, {"first_stage": "fetch"}])
def test_what_the_caller_did_not_mean_does_not_change_the_fingerprint(chosen: dict[str, str]) -> None:
    mark = command(**chosen).fingerprint

    assert mark == command().fingerprint


@pytest.mark.parametrize(
    "chosen",
    [
        {"reference": None},
        {"reference": ""},
        {"reference": "order-8"},
        {"reference": "null"},
        {"payload": {}},
        {"payload": {"url": "https://example.com/2"}},
        {"payload": {"url": "https://example.com/1", "more": None}},
        {"payload": {"URL": "https://example.com/1"}},
    ],
)
def test_another_reference_or_payload_is_another_command(chosen: dict[str, Any]) -> None:
    mark = command(**chosen).fingerprint

    assert mark != command().fingerprint


@settings(deadline=None)
@given(references, payloads, references, payloads)
def test_two_commands_share_a_fingerprint_exactly_when_they_mean_the_same(
    reference: str | None, payload: dict[str, Any], other_reference: str | None, other_payload: dict[str, Any]
) -> None:
    one = command(reference=reference, payload=payload)
    other = command(reference=other_reference, payload=other_payload)

    same = (reference, one.payload_json) == (other_reference, other.payload_json)
    assert (one.fingerprint == other.fingerprint) is same


def test_a_payload_cannot_pass_for_a_reference() -> None:
    one = command(reference=None, payload={"reference": "a"})
    other = command(reference="a", payload={"reference": None})

    assert one.fingerprint != other.fingerprint


@settings(deadline=None)
@given(payloads)
def test_another_serializers_bytes_mean_the_same_command(payload: dict[str, Any]) -> None:
    backwards = dict(reversed(payload.items()))
    rewritten = json.loads(json.dumps(backwards, indent=2, ensure_ascii=False))

    assert command(payload=rewritten) == command(payload=payload)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_payload_with_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        command(payload={"deep": [{"price": number}]})


@pytest.mark.parametrize("payload", [{"a": "\ud800"}, {"a": ["\udfff"]}, {"\ud83d": 1}])
def test_a_payload_with_half_a_surrogate_pair_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any sentence will do
        command(payload=payload)


def test_a_whole_surrogate_pair_is_one_character_however_it_was_written() -> None:
    escaped, literal = json.loads(r'{"a": "\ud83d\ude00"}'), {"a": "\N{GRINNING FACE}"}

    assert command(payload=escaped) == command(payload=literal)
