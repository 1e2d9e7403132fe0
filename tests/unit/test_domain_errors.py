"""The tree of errors: as drawn in its docstring, each with a code, a status and a sentence."""

import re
from typing import TypeVar

import pytest

from app import errors
from app.errors import (
    BadSettings,
    CabinetError,
    Conflict,
    ConstraintViolated,
    Defect,
    Forbidden,
    Invalid,
    KeyReused,
    MalformedKey,
    Refusal,
    SideEffectsUnconfirmed,
    StageGone,
    StartFault,
    StorageFull,
    TooManyRequests,
    Unavailable,
)

Error = TypeVar("Error", bound=CabinetError)


def family(parent: type[Error]) -> list[type[Error]]:
    """Return an error and all those below it that the tree holds, parents first."""
    children = [child for child in parent.__subclasses__() if child.__module__ == errors.__name__]
    return [parent, *(found for child in children for found in family(child))]


def test_the_tree_draws_every_error_and_no_other() -> None:
    _, tree = (errors.__doc__ or "").split("\n\n")

    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", tree))

    assert drawn == {error.__name__ for error in family(CabinetError)}


@pytest.mark.parametrize("error", family(CabinetError))
def test_an_error_begins_its_docstring_with_a_whole_sentence(error: type[CabinetError]) -> None:
    first_line = (error.__doc__ or "").split("\n")[0]

    assert re.fullmatch(r"[A-Z].*[.]", first_line)


@pytest.mark.parametrize(
    ("parent", "low", "high"),
    [(Refusal, 400, 499), (Forbidden, 403, 403), (Invalid, 422, 422), (Unavailable, 503, 503), (Defect, 500, 500)],
)
def test_a_family_of_errors_answers_with_its_own_range_of_status(
    parent: type[CabinetError], low: int, high: int
) -> None:
    outside = [error for error in family(parent) if not low <= error.status <= high]

    assert outside == []


@pytest.mark.parametrize("parent", [Refusal, Unavailable])
def test_each_error_that_a_caller_meets_has_a_code_of_its_own(parent: type[CabinetError]) -> None:
    codes = [error.code for error in family(parent)]

    assert len(codes) == len(set(codes))
    assert [code for code in codes if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)] == []


def test_a_defect_does_not_tell_callers_which_rule_was_broken() -> None:
    codes = {error.code for error in family(Defect)}

    assert codes == {"internal_error"}


def test_the_exit_codes_of_a_start_that_fails_are_the_documented_ones() -> None:
    codes = {error.__name__: error.exit_code for error in family(StartFault)}

    assert codes == {
        "StartFault": 1,
        "BadSettings": 3,
        "AlreadyOwned": 1,
        "SchemaMismatch": 4,
        "MigrationFailed": 4,
        "BadQueries": 1,
        "BackupFailed": 1,
        "RestoreInterrupted": 1,
    }


def test_an_error_without_a_message_says_the_first_line_of_its_docstring() -> None:
    error = Invalid()

    assert error.message == "The content is not valid; every bad field is listed under errors."


def test_an_error_says_the_message_it_is_given() -> None:
    error = Conflict("Already decided.")

    assert (error.message, str(error)) == ("Already decided.", "Already decided.")


def test_a_malformed_key_is_a_bad_request() -> None:
    error = MalformedKey()

    assert (error.status, error.code) == (400, "idempotency_key_malformed")


def test_a_reused_key_is_invalid_content_without_faults() -> None:
    error = KeyReused()

    assert (error.status, error.code, error.faults) == (422, "idempotency_key_reused", ())


def test_faults_are_kept_as_they_were_when_the_error_was_raised() -> None:
    faults = [("/a", "is missing")]

    error = Invalid(faults)
    faults.clear()

    assert error.faults == (("/a", "is missing"),)


def test_bad_settings_tell_all_their_faults_at_once() -> None:
    error = BadSettings(["One.", "Two."])

    assert (error.message, error.faults) == ("One.\nTwo.", ("One.", "Two."))


def test_a_violated_constraint_names_the_rule() -> None:
    error = ConstraintViolated("unique", "users.subject")

    assert (error.kind, error.constraint) == ("unique", "users.subject")
    assert error.message == "unique violated: users.subject"


def test_whoever_is_to_try_again_is_told_when() -> None:
    seconds = [error.retry_after_seconds for error in (TooManyRequests(2.5), Unavailable(), StorageFull())]

    assert seconds == [2.5, 1, 30]


@pytest.mark.parametrize(
    ("error", "code"), [(StageGone(), "stage_gone"), (SideEffectsUnconfirmed(), "side_effects_unconfirmed")]
)
def test_what_stands_against_a_rescue_is_a_conflict_with_a_code_of_its_own(error: Conflict, code: str) -> None:
    assert isinstance(error, Conflict)
    assert (error.status, error.code) == (409, code)


def test_whoever_runs_side_effects_again_is_told_how_to_confirm_it() -> None:
    assert "confirm_side_effects" in SideEffectsUnconfirmed().message
