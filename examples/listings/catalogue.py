"""The catalogue: the example's data as payloads ready to be posted, and what is known to fail among them."""

import csv
from typing import Any

from examples.listings.pictures import PICTURES


def read_catalogue() -> list[dict[str, Any]]:
    """Return every row as the body of POST /v1/tasks: {"reference": stock number, "payload": listing}."""
    pictures = {row["file"]: row for row in _rows("pictures.csv")}
    return [
        {"reference": row["stock_number"], "payload": _payload(row, pictures[row["picture"]])}
        for row in _rows("catalogue.csv")
    ]


def payload_of(reference: str) -> dict[str, Any]:
    """Return the payload of one row; KeyError if there is none of that stock number."""
    payloads: dict[str, dict[str, Any]] = {row["reference"]: row["payload"] for row in read_catalogue()}
    return payloads[reference]


def expected_dead_letters() -> dict[str, str]:
    """Return the error kind of each row that cannot succeed, by its reference."""
    return {row["reference"]: row["kind"] for row in _rows("expected_dead_letters.csv")}


def _payload(row: dict[str, str], picture: dict[str, str]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("stock_number", "title", "description", "price")},
        "picture": picture,
        "crop": {side: int(row[side]) for side in ("left", "top", "width", "height")},
    }


def _rows(name: str) -> list[dict[str, str]]:
    with (PICTURES / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
