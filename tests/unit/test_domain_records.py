"""The domain's records: all of them are frozen and slotted, and none of the domain waits."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from enum import StrEnum
from pathlib import Path

import pytest

import app.domain
from app.clock import Timestamp
from app.domain import access, dead_letters, jobs, keys, retention, retry, tasks, users
from app.domain.access import AccessStatus
from app.domain.jobs import AttemptOutcome, Failure
from app.domain.users import Role, User

MODULES = [importlib.import_module(f"app.domain.{module.name}") for module in pkgutil.iter_modules(app.domain.__path__)]
CLASSES = [
    found
    for module in MODULES
    for _, found in inspect.getmembers(module, inspect.isclass)
    if found.__module__ == module.__name__
]
RECORDS = [found for found in CLASSES if dataclasses.is_dataclass(found)]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_the_domain_is_frozen_and_slotted(record: type) -> None:
    parameters = record.__dataclass_params__  # type: ignore[attr-defined]

    assert parameters.frozen
    assert "__slots__" in vars(record)


@pytest.mark.parametrize("found", CLASSES)
def test_a_class_of_the_domain_is_a_record_or_a_set_of_words(found: type) -> None:
    is_named_tuple = issubclass(found, tuple) and hasattr(found, "_fields")

    assert dataclasses.is_dataclass(found) or issubclass(found, StrEnum) or is_named_tuple


@pytest.mark.parametrize("found", CLASSES)
def test_a_class_of_the_domain_says_what_it_means(found: type) -> None:
    generated = f"{found.__name__}("

    assert not (found.__doc__ or generated).startswith(generated)


@pytest.mark.parametrize("path", sorted(Path(app.domain.__path__[0]).glob("*.py")), ids=lambda path: path.stem)
def test_nothing_in_the_domain_waits(path: Path) -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

    found = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, waiting)]

    assert found == []


def test_a_user_cannot_be_changed_in_place() -> None:
    moment = Timestamp("2026-11-22T20:19:00.000000Z")
    user = User(
        id="u", subject="a", role=Role.USER, scopes=frozenset(), is_active=True, created_at=moment, updated_at=moment
    )

    with pytest.raises(dataclasses.FrozenInstanceError):
        user.role = Role.ADMIN  # type: ignore[misc]


def test_a_failure_is_retryable_unless_it_says_otherwise() -> None:
    failure = Failure(kind="timeout", message="It took too long.")

    assert failure.retryable


def test_the_words_of_a_request_and_an_attempt_are_the_ones_that_are_stored() -> None:
    words = [[str(word) for word in words] for words in (AccessStatus, AttemptOutcome)]

    assert words == [
        ["pending", "approved", "rejected"],
        ["succeeded", "failed", "snoozed", "released", "lease_expired", "cancelled"],
    ]


def test_a_failure_asks_for_no_wait_unless_it_says_so() -> None:
    failure = Failure(kind="timeout", message="It took too long.")

    assert (failure.after_seconds, failure.traceback) == (None, None)


LIMITS = {
    "REASON_LIMIT": (access, 1_000),
    "PENDING_LIMIT": (access, 1_000),
    "PATTERN_LIMIT": (dead_letters, 300),
    "ERROR_MESSAGE_LIMIT": (jobs, 2_000),
    "TRACEBACK_LIMIT": (jobs, 8_000),
    "SNOOZES_KEPT": (jobs, 100),
    "KEY_MINIMUM_SECONDS": (retention, 24 * 3_600),
    "RETRY_AFTER_LIMIT_SECONDS": (retry, 7 * 24 * 3_600),
    "REFERENCE_LIMIT": (tasks, 255),
    "SUBJECT_LIMIT": (users, 255),
    "KEYS_LIMIT": (keys, 20),
    "KEY_NAME_LIMIT": (keys, 100),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_the_documented_one(name: str) -> None:
    module, limit = LIMITS[name]

    assert getattr(module, name) == limit


def test_there_is_no_limit_that_is_not_documented() -> None:
    named = {name for module in MODULES for name in vars(module) if re.search(r"_LIMIT|_MINIMUM|_KEPT$", name)}

    assert named == set(LIMITS)
