"""Pipelines: what a Pipeline and its Stages refuse, how stages follow one another, and how payloads are checked."""

import logging
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.retry import RetryPolicy
from app.errors import Invalid
from app.pipelines import Cancelled, Context, Fail, Pipeline, Retry, Snooze, Stage
from app.pipelines.outcomes import SNOOZE_LEAST_SECONDS, SNOOZE_LIMIT_SECONDS
from app.pipelines.pipeline import STAGE_LIMIT

FIVE = ("parse", "photos", "publish", "export", "cleanup")


def nothing(context: Context) -> None:
    """Do nothing, successfully."""


def pipeline(*names: str, payload: type[BaseModel] | None = None) -> Pipeline:
    """Make a pipeline whose stages do nothing."""
    return Pipeline([Stage(name, nothing) for name in names], payload=payload)


class Photo(BaseModel):
    """A picture of a listing."""

    url: str
    width: int = Field(gt=0)


class Listing(BaseModel):
    """A payload that forbids what it does not know."""

    model_config = ConfigDict(extra="forbid")

    title: str
    photos: list[Photo] = []
    per_day: Annotated[int, Field(alias="per/day")] = 1
    tilde: Annotated[int, Field(alias="~tilde")] = 1


class Range(BaseModel):
    """A payload that is only valid as a whole."""

    low: int
    high: int

    @model_validator(mode="after")
    def ordered(self) -> "Range":
        """Refuse a range that is the wrong way round."""
        if self.low > self.high:
            raise ValueError("low lies above high")
        return self


# Stages --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "parse", "parse_2", "a" * 64, "a_"])
def test_a_stage_is_named_by_a_lowercase_word(name: str) -> None:
    stage = Stage(name, nothing)

    assert stage.name == name


@pytest.mark.parametrize(
    "name", ["", "a" * 65, "Parse", "2nd", "_parse", "parse-it", "parse it", "parse\n", "pärse", "parse.it", "parse/it"]
)
def test_any_other_name_of_a_stage_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a stage's name is a lowercase word"):
        Stage(name, nothing)


@pytest.mark.parametrize("timeout_seconds", [0, -1, 86_400.1, float("nan"), float("inf"), float("-inf")])
def test_a_time_limit_that_could_not_pass_is_refused(timeout_seconds: float) -> None:
    with pytest.raises(ValueError, match="the time limit of stage parse must lie between 0 and 86400 seconds"):
        Stage("parse", nothing, timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("timeout_seconds", [0.001, 86_400])
def test_a_time_limit_up_to_a_day_is_taken(timeout_seconds: float) -> None:
    stage = Stage("parse", nothing, timeout_seconds=timeout_seconds)

    assert stage.timeout_seconds == timeout_seconds


@pytest.mark.parametrize("handler", [None, "module:function", 7])
def test_a_handler_that_cannot_be_called_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match="the handler of stage parse cannot be called"):
        Stage("parse", handler)


def test_a_stage_retries_and_ends_by_itself_unless_told_otherwise() -> None:
    stage = Stage("parse", nothing)

    assert (stage.retry, stage.timeout_seconds) == (RetryPolicy(), 300)


@pytest.mark.parametrize("concurrency", [0, -1, 257])
def test_a_stage_that_nobody_could_run_or_that_is_not_limited_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match="the concurrency of stage parse must lie between 1 and 256"):
        Stage("parse", nothing, concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [None, 1, 256])
def test_a_stage_runs_as_often_at_once_as_it_says(concurrency: int | None) -> None:
    assert Stage("parse", nothing, concurrency=concurrency).concurrency == concurrency


def test_a_stage_has_no_limit_and_no_side_effect_unless_it_says_so() -> None:
    stage = Stage("parse", nothing)

    assert (stage.concurrency, stage.side_effect) == (None, False)


def test_a_stage_cannot_be_changed_in_place() -> None:
    stage = Stage("parse", nothing)

    with pytest.raises(FrozenInstanceError):
        stage.name = "other"  # type: ignore[misc]


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_keeps_its_stages_in_order() -> None:
    five = pipeline(*FIVE)

    assert five.names == FIVE
    assert five.first == "parse"


def test_each_stage_is_followed_by_the_next_and_the_last_by_none() -> None:
    five = pipeline(*FIVE)

    followed_by = [five.after(name) for name in FIVE]

    assert followed_by == ["photos", "publish", "export", "cleanup", None]


def test_the_only_stage_is_the_first_and_the_last() -> None:
    one = pipeline("only")

    assert (one.first, one.after("only")) == ("only", None)


def test_a_stage_is_found_by_its_name() -> None:
    publish = Stage("publish", nothing, timeout_seconds=5)
    two = Pipeline([Stage("parse", nothing), publish])

    assert two.stage("publish") is publish


def test_a_name_that_is_no_stage_is_a_key_error() -> None:
    five = pipeline(*FIVE)

    with pytest.raises(KeyError, match="unheard"):
        five.stage("unheard")


def test_nothing_follows_a_name_that_is_no_stage() -> None:
    five = pipeline(*FIVE)

    with pytest.raises(KeyError, match="unheard"):
        five.after("unheard")


@pytest.mark.parametrize("count", [0, STAGE_LIMIT + 1])
def test_a_pipeline_without_stages_or_with_too_many_is_refused(count: int) -> None:
    names = [f"stage_{number}" for number in range(count)]

    with pytest.raises(ValueError, match=f"a pipeline has 1 to {STAGE_LIMIT} stages"):
        pipeline(*names)


def test_a_pipeline_holds_as_many_stages_as_the_limit_says() -> None:
    names = tuple(f"stage_{number}" for number in range(STAGE_LIMIT))

    assert pipeline(*names).names == names


@pytest.mark.parametrize("names", [("a", "a"), ("a", "b", "a"), ("b", "a", "a")])
def test_two_stages_of_the_same_name_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="two stages of a pipeline cannot have the same name"):
        pipeline(*names)


def test_a_list_of_stages_that_changes_later_does_not_change_the_pipeline() -> None:
    stages = [Stage("parse", nothing)]
    one = Pipeline(stages)

    stages.append(Stage("publish", nothing))

    assert one.names == ("parse",)


def test_stages_that_are_done_are_passed_over() -> None:
    five = pipeline(*FIVE)

    followed_by = [five.after("parse", done=done) for done in ((), {"photos"}, {"export", "photos"}, set(FIVE))]

    assert followed_by == ["photos", "publish", "publish", None]


def test_stages_before_are_never_gone_back_to() -> None:
    five = pipeline(*FIVE)

    assert five.after("export", done={"export"}) == "cleanup"


def test_a_pipeline_tells_its_stages_and_which_of_them_act_on_the_world_outside() -> None:
    shape = Pipeline([Stage("parse", nothing), Stage("pay", nothing, side_effect=True)]).shape

    assert (shape.stages, shape.side_effects) == (("parse", "pay"), frozenset({"pay"}))


# Payloads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{}, {"anything": [1, None, {"deep": True}]}])
def test_without_a_model_every_payload_fits_and_is_handed_on_as_it_is(payload: dict[str, Any]) -> None:
    loose = pipeline("parse")

    loose.check_payload(payload)

    assert loose.read_payload(payload) is payload


def test_with_a_model_a_handler_sees_the_model() -> None:
    strict = pipeline("parse", payload=Listing)
    payload = {"title": "Flat", "photos": [{"url": "https://example.com/1.jpg", "width": 640}], "per/day": 2}

    strict.check_payload(payload)
    read = strict.read_payload(payload)

    assert isinstance(read, Listing)
    assert (read.title, read.photos[0].width, read.per_day) == ("Flat", 640, 2)


@pytest.mark.parametrize(
    ("payload", "pointers"),
    [
        ({}, ["/payload/title"]),
        ({"title": None}, ["/payload/title"]),
        ({"title": "a", "colour": "red"}, ["/payload/colour"]),
        (
            {"title": "a", "photos": [{"url": "u", "width": 1}, {"width": 0}]},
            ["/payload/photos/1/url", "/payload/photos/1/width"],
        ),
        ({"title": "a", "per/day": "x"}, ["/payload/per~1day"]),
        ({"title": "a", "~tilde": "x"}, ["/payload/~0tilde"]),
        ({"title": "a", "o/~": 1}, ["/payload/o~1~0"]),
    ],
)
def test_every_field_that_does_not_fit_is_named_by_a_pointer(payload: dict[str, Any], pointers: list[str]) -> None:
    strict = pipeline("parse", payload=Listing)

    with pytest.raises(Invalid) as refusal:
        strict.check_payload(payload)

    assert sorted(pointer for pointer, _ in refusal.value.faults) == pointers
    assert all(sentence for _, sentence in refusal.value.faults)


def test_a_payload_that_does_not_fit_as_a_whole_is_named_as_a_whole() -> None:
    strict = pipeline("parse", payload=Range)

    with pytest.raises(Invalid) as refusal:
        strict.check_payload({"low": 2, "high": 1})

    assert refusal.value.faults == (("/payload", "Value error, low lies above high"),)


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    strict = pipeline("parse", payload=Range)

    with pytest.raises(Invalid) as refusal:
        strict.check_payload({"low": "hunter2", "high": 1})

    assert "hunter2" not in repr((refusal.value.faults, refusal.value.message))
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_checking_a_payload_does_not_change_it() -> None:
    strict = pipeline("parse", payload=Range)
    payload = {"low": "1", "high": 2, "more": []}

    strict.check_payload(payload)

    assert payload == {"low": "1", "high": 2, "more": []}


# Outcomes and context ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a", "not_found", "http_404", "a" * 64])
def test_a_failure_is_grouped_by_a_lowercase_word_and_explained_by_a_sentence(kind: str) -> None:
    fail = Fail(kind, "The page is gone; send another address.")

    assert (fail.kind, fail.message, str(fail)) == (kind, fail.message, "The page is gone; send another address.")


@pytest.mark.parametrize("kind", ["", "a" * 65, "NotFound", "404", "_a", "not found", "not-found", "a\n", "é"])
def test_a_failure_of_any_other_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="an error kind is a lowercase word"):
        Fail(kind, "Something is wrong.")


@pytest.mark.parametrize("delay_seconds", [SNOOZE_LEAST_SECONDS, 60, SNOOZE_LIMIT_SECONDS])
def test_a_snooze_lasts_a_second_to_thirty_days(delay_seconds: float) -> None:
    assert Snooze(delay_seconds).delay_seconds == delay_seconds


@pytest.mark.parametrize("delay_seconds", [0, -1, 0.999, SNOOZE_LIMIT_SECONDS + 1, float("nan"), float("inf")])
def test_any_other_snooze_is_refused(delay_seconds: float) -> None:
    with pytest.raises(ValueError, match="a snooze lasts 1 to 2592000 seconds"):
        Snooze(delay_seconds)


def test_retry_needs_no_words() -> None:
    retry = Retry()

    assert (retry.kind, retry.message, retry.after_seconds) == ("retry", "The stage asked for another attempt.", None)


def test_retry_says_what_is_wrong_of_which_kind_and_how_long_to_wait() -> None:
    retry = Retry("The portal is down.", kind="portal_down", after_seconds=0)

    assert (retry.kind, retry.message, retry.after_seconds) == ("portal_down", "The portal is down.", 0)
    assert str(retry) == "The portal is down."


@pytest.mark.parametrize("after_seconds", [-0.001, float("nan"), float("inf"), float("-inf")])
def test_a_retry_after_no_time_that_could_pass_is_refused(after_seconds: float) -> None:
    with pytest.raises(ValueError, match="after_seconds must be a number of seconds from now, 0 or more"):
        Retry(after_seconds=after_seconds)


@pytest.mark.parametrize("kind", ["", "Portal down", "a" * 65, "a\n"])
def test_a_retry_of_no_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="an error kind is a lowercase word"):
        Retry(kind=kind)


def test_a_handler_leaves_once_its_attempt_is_not_wanted_any_more() -> None:
    context = Context(
        task_id="t1",
        reference=None,
        stage="parse",
        attempt=1,
        payload={},
        outputs={},
        folder=Path("folder"),
        log=logging.getLogger("test"),
    )
    context.raise_if_cancelled()
    before = context.is_cancelled

    context.signals.is_cancelled.set()

    assert (before, context.is_cancelled) == (False, True)
    with pytest.raises(Cancelled):
        context.raise_if_cancelled()


def test_the_key_for_the_outside_world_is_the_same_in_every_attempt_of_a_stage() -> None:
    def context(stage: str, attempt: int) -> Context:
        return Context(
            task_id="t1",
            reference=None,
            stage=stage,
            attempt=attempt,
            payload={},
            outputs={},
            folder=Path("folder"),
            log=logging.getLogger("test"),
        )

    keys = [context("export", 1), context("export", 2), context("publish", 1)]

    assert [each.idempotency_key for each in keys] == ["t1:export", "t1:export", "t1:publish"]


def test_very_many_faults_of_a_payload_are_counted_and_not_listed() -> None:
    class Numbers(BaseModel):
        numbers: list[int]

    pipeline = Pipeline([Stage("parse", lambda _context: None)], payload=Numbers)

    with pytest.raises(Invalid) as caught:
        pipeline.check_payload({"numbers": ["x"] * 10_000})

    assert caught.value.faults == (("/payload", "has 10000 faults, more than the 100 that would be listed"),)
