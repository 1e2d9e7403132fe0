"""The parse stage of the listings example: what it tidies, what it refuses, and where each broken row fails."""

import csv
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.pipelines import Fail
from examples.listings.catalogue import expected_dead_letters, payload_of
from examples.listings.dry_run import run_stage, run_until
from examples.listings.listing import Item, Listing
from examples.listings.parse import price_in_cents, slug, tidy
from examples.listings.pictures import PICTURES
from examples.listings.pipeline import pipeline


def test_parse_tidies_texts_and_reads_the_price(tmp_path: Path) -> None:
    payload = changed(payload_of("HUB-002"), title="  A\tpale \n spiral\x00 ", price=" EUR  16,50 ")

    item = Item.model_validate(run_stage(tmp_path / "task", payload, "parse", {})["item"])

    assert (item.title, item.price_cents, item.price) == ("A pale spiral", 1650, "16.50")
    assert item.slug == "hub-002-hubble-extreme-deep-field-a-pale-spiral"


@pytest.mark.parametrize(("price", "cents"), [("18", 1800), ("18.05", 1805), ("18,50", 1850), ("18.50 EUR", 1850)])
def test_a_price_is_read_as_cents(price: str, cents: int) -> None:
    assert price_in_cents(price) == cents


@pytest.mark.parametrize(
    "price", ["", "on request", "-1", "1.5", "1e3", "1,000.00", "USD 5", "\u0661\u0662", "12\n.00"]
)
def test_a_price_that_is_none_fails(price: str) -> None:
    with pytest.raises(Fail) as caught:
        price_in_cents(price)

    assert caught.value.kind == "price_unreadable"


def test_a_text_without_a_printable_character_fails() -> None:
    with pytest.raises(Fail) as caught:
        tidy(" \t\x00\u200b", "title")

    assert caught.value.kind == "text_empty"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Crème brûlée, 2 cups!", "creme-brulee-2-cups"), ("../../etc", "etc"), ("日本", "item"), ("a" * 99, "a" * 60)],
)
def test_a_slug_is_fit_for_a_file_name(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize("reference", sorted(expected_dead_letters()))
def test_a_broken_row_fails_for_good_with_its_kind_and_says_why(tmp_path: Path, reference: str) -> None:
    failure = failure_of(tmp_path / "task", payload_of(reference))

    assert failure.kind == expected_dead_letters()[reference]
    assert len(failure.message) > 20
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("reference", sorted(expected_dead_letters()))
def test_a_broken_row_fails_in_the_stage_that_the_data_name(tmp_path: Path, reference: str) -> None:
    with (PICTURES / "expected_dead_letters.csv").open(newline="", encoding="utf-8") as lines:
        stage = {row["reference"]: row["stage"] for row in csv.DictReader(lines)}[reference]
    names = pipeline.names[: pipeline.names.index(stage)]

    outputs = run_until(tmp_path / "task", payload_of(reference), names[-1]) if names else {}

    with pytest.raises(Fail):
        run_stage(tmp_path / "task", payload_of(reference), stage, outputs)


def test_a_crop_that_touches_the_edges_is_inside_and_one_pixel_more_is_not(tmp_path: Path) -> None:
    whole = payload_of("COF-001")
    wider = changed(whole, crop={**whole["crop"], "width": whole["crop"]["width"] + 1})

    run_stage(tmp_path / "task", whole, "parse", {})

    assert failure_of(tmp_path / "task", wider).kind == "crop_outside_picture"


def test_a_crop_too_small_to_print_fails(tmp_path: Path) -> None:
    payload = changed(payload_of("COF-001"), crop={"left": 0, "top": 0, "width": 600, "height": 63})

    assert failure_of(tmp_path / "task", payload).kind == "crop_too_small"


@pytest.mark.parametrize(
    "fault",
    [
        {"price": 16},
        {"stock_number": "hub-1"},
        {"title": "x" * 201},
        {"colour": "red"},
        {"crop": {"left": -1, "top": 0, "width": 1, "height": 1}},
        {"crop": {"left": "0", "top": 0, "width": 1, "height": 1}},
    ],
)
def test_a_payload_of_another_shape_is_refused_at_once(fault: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        pipeline.check_payload(changed(payload_of("HUB-001"), **fault))


@pytest.mark.parametrize(
    "fault", [{"file": "../listing.py"}, {"file": "SOURCES.md"}, {"source": "javascript:alert(1)"}, {"sha256": "0"}]
)
def test_a_picture_elsewhere_or_with_a_dangerous_source_is_refused_at_once(fault: dict[str, str]) -> None:
    payload = changed(payload_of("HUB-001"), picture={**payload_of("HUB-001")["picture"], **fault})

    with pytest.raises(Invalid):
        pipeline.check_payload(payload)


def test_the_listing_model_sees_what_was_posted() -> None:
    listing = pipeline.read_payload(payload_of("HUB-001"))

    assert isinstance(listing, Listing)
    assert listing.model_dump() == payload_of("HUB-001")


def changed(payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**payload, **changes}


def failure_of(folder: Path, payload: dict[str, Any]) -> Fail:
    with pytest.raises(Fail) as caught:
        run_until(folder, payload)
    return caught.value
