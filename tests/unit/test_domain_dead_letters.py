"""Dead letters: which failures are alike, and what a rescue may run again (design §6)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.dead_letters import (
    PATTERN_LIMIT,
    RescueStatus,
    RescueTerms,
    check_side_effects,
    signature,
    stages_to_run_again,
)
from app.domain.jobs import ERROR_MESSAGE_LIMIT
from app.domain.pipeline import PipelineShape
from app.errors import Conflict, Invalid, SideEffectsUnconfirmed, StageGone

SHAPE = PipelineShape(
    stages=("parse", "photos", "publish", "export", "cleanup"), side_effects=frozenset({"publish", "export"})
)

# Signatures ----------------------------------------------------------------------------------------------------------

PATTERNS = {
    "No page 17 of 2,000.5.": "No page <n> of <n>.",
    "attempt 1/5 failed": "attempt <n>/<n> failed",
    "photo17.jpg is missing": "photo<n>.jpg is missing",
    "10.0.0.1:8080 refused": "<n>:<n> refused",
    "task 01a2061a-5413-70f1-a44a-d0b3eef46122 is gone": "task <id> is gone",
    "task 01A2061A-5413-70F1-A44A-D0B3EEF46122 is gone": "task <id> is gone",
    "since 2026-11-22T20:19:00.000000Z": "since <time>",
    "since 2026-11-22 20:19:00+01:00 on": "since <time> on",
    "since 2026-11-22": "since <time>",
    "GET https://shop.example/a?b=1 failed": "GET <url> failed",
    "no mail to bob@example.com, a.b+c@x.co.uk": "no mail to <address>, <address>",
    "@ home, a@b": "@ home, a@b",
    "/tmp/cabinet/a.html is empty": "<path> is empty",
    "either and/or both": "either and/or both",
    "at 0xdeadBEEF": "at <hex>",
    "commit 3fa94b12c is unknown": "commit <hex> is unknown",
    "deadbeef is a word": "deadbeef is a word",
    "KeyError: 'price'": "KeyError: <text>",
    'no "price" here': "no <text> here",
    "no `price` here": "no <text> here",
    "invalid start byte: b'\\xff'": "invalid start byte: <text>",
    "can't open 'a b.html'": "can't open <text>",
    "the shop's page doesn't have 'price'": "the shop's page doesn't have <text>",
    "'it doesn't work', says 'x'": "<text>, says <text>",
    "could not fetch 'https://shop.example/1' for 'order a'": "could not fetch <text> for <text>",
    "one\n\t two  ": "one two",
    "": "",
}


@pytest.mark.parametrize("message", PATTERNS)
def test_what_varies_is_taken_out_of_a_message(message: str) -> None:
    assert signature("parse", "broken", message).pattern == PATTERNS[message]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("No page 17.", "No page 18."),
        ("can't open 'a.html'", "can't open 'b.html'"),
        ("task 01a2061a-5413-70f1-a44a-d0b3eef46122", "task 01a2061a-5468-7538-8152-0152ce6f100f"),
        ("no mail to alice@example.com", "no mail to bob@example.org"),
        ("GET http://a.example/x", "GET https://b.example/y?z=1"),
        ("line 1\n  line 2", "line 1 line 2"),
        (PATTERN_LIMIT * "a" + "b", PATTERN_LIMIT * "a" + "c"),
    ],
)
def test_messages_that_differ_only_in_what_varies_are_one_group(one: str, other: str) -> None:
    assert signature("parse", "broken", one) == signature("parse", "broken", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("parse", "broken", "It broke."), ("photos", "broken", "It broke.")),
        (("parse", "broken", "It broke."), ("parse", "timeout", "It broke.")),
        (("parse", "broken", "No title."), ("parse", "broken", "No price.")),
        (("parse", "broken", "No title."), ("parse", "broken", "no title.")),
        (("parse", "broken", ""), ("parse", "broken", "It broke.")),
    ],
)
def test_another_stage_kind_or_wording_is_another_group(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert signature(*one).name != signature(*other).name


@settings(deadline=None)
@given(st.text(max_size=ERROR_MESSAGE_LIMIT))
def test_every_message_has_a_signature_of_bounded_length_on_one_line(message: str) -> None:
    found = signature("parse", "broken", message)

    assert len(found.name) == 16
    assert len(found.pattern) <= PATTERN_LIMIT
    assert not set(found.pattern) & set("\n\r\t")
    assert found == signature("parse", "broken", message)


FRAGMENTS = [
    "0", "a", "f0", "-", "'", '"', "`", "/", "@", ".", "+", "0x", "é", "1,", "a.", "a-", " ", "\n", "http://", "/a",
    "a@a.", "a1-", "A_", "2026-11-22", "b'", "'a", "deadbeef",
]  # fmt: skip


@pytest.mark.timeout(60)  # one that goes back over the message from each of its characters takes minutes
@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_message_that_nearly_matches_everywhere_is_read_once(fragment: str) -> None:
    for other in ("", *FRAGMENTS[:12]):
        signature("parse", "broken", (fragment + other) * (40_000 // len(fragment + other)) + "!")


@pytest.mark.timeout(60)
@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6), st.sampled_from(["", "@", " ", "!"]))
def test_whatever_is_repeated_a_message_is_read_once(fragments: list[str], tail: str) -> None:
    repeated = "".join(fragments)

    assert len(signature("parse", "broken", repeated * (20_000 // len(repeated)) + tail).pattern) <= PATTERN_LIMIT


# Rescue --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "from_stage", "again"),
    [
        ("parse", None, ("parse",)),
        ("publish", None, ("publish",)),
        ("publish", "publish", ("publish",)),
        ("publish", "photos", ("photos", "publish")),
        ("cleanup", "parse", SHAPE.stages),
        ("lost", "export", ("export", "cleanup")),
        ("lost", "parse", SHAPE.stages),
    ],
)
def test_a_rescue_runs_again_from_the_stage_that_is_named_to_the_one_where_the_task_died(
    stage: str, from_stage: str | None, again: tuple[str, ...]
) -> None:
    assert stages_to_run_again(SHAPE, stage=stage, from_stage=from_stage) == again


@pytest.mark.parametrize(("stage", "from_stage"), [("parse", "photos"), ("publish", "export"), ("export", "cleanup")])
def test_a_rescue_skips_no_stage(stage: str, from_stage: str) -> None:
    with pytest.raises(Conflict, match=f"{from_stage} comes after {stage}") as caught:
        stages_to_run_again(SHAPE, stage=stage, from_stage=from_stage)

    assert caught.value.code == "conflict"


def test_a_task_that_died_at_a_stage_that_is_gone_needs_another_one_named() -> None:
    with pytest.raises(StageGone, match="no longer has the stage lost"):
        stages_to_run_again(SHAPE, stage="lost", from_stage=None)


@pytest.mark.parametrize("stage", ["publish", "lost"])
@pytest.mark.parametrize("from_stage", ["lost", "", "Parse", "*"])
def test_a_rescue_begins_at_a_stage_that_the_pipeline_has(stage: str, from_stage: str) -> None:
    with pytest.raises(Invalid) as caught:
        stages_to_run_again(SHAPE, stage=stage, from_stage=from_stage)

    ((pointer, sentence),) = caught.value.faults
    assert pointer == "/from_stage"
    assert "parse, photos, publish, export, cleanup" in sentence


@pytest.mark.parametrize("stages", [("publish",), ("photos", "publish", "export"), ("export", "cleanup")])
def test_what_acts_on_the_world_runs_again_only_if_somebody_confirms_it(stages: tuple[str, ...]) -> None:
    check_side_effects(SHAPE, stages, RescueTerms(confirm_side_effects=True))

    with pytest.raises(SideEffectsUnconfirmed, match="confirm_side_effects") as caught:
        check_side_effects(SHAPE, stages, RescueTerms())

    named = caught.value.message.partition(" again")[0].removeprefix("This runs ").split(", ")
    assert named == [stage for stage in stages if stage in {"publish", "export"}]


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("stages", [(), ("parse",), ("parse", "photos"), ("cleanup",)])
def test_what_acts_on_nothing_outside_needs_no_confirmation(stages: tuple[str, ...], confirmed: bool) -> None:
    check_side_effects(SHAPE, stages, RescueTerms(confirm_side_effects=confirmed))


def test_the_words_of_a_rescue_are_the_ones_that_are_stored() -> None:
    assert [str(status) for status in RescueStatus] == ["running", "done", "stopped"]
