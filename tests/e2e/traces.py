"""Traces: everything that a service's file holds, and what of it refused requests do not bring about."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from tests.e2e.home import Home

CHANGES_BY_ITSELF = {"probes": "the service proves every other second that it can write"}
"""Tables that change while nobody asks and nobody works, each with its reason."""

Rows = Counter[tuple[tuple[str, Any], ...]]
"""A table's rows, each as pairs of column and value."""


def tables(home: Home) -> dict[str, Rows]:
    """Return everything that the file holds: all rows of all tables that there are."""
    with closing(home.connect()) as connection:
        connection.execute("BEGIN")
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for name in names:
            rows = connection.execute(f"SELECT * FROM {name}")
            columns = [column[0] for column in rows.description]
            found[name] = Counter(tuple(zip(columns, row, strict=True)) for row in rows)
        return found


def changes(
    before: Mapping[str, Rows], after: Mapping[str, Rows], *, nonces: Iterable[tuple[str, str]] = ()
) -> list[str]:
    """Return what happened between two looks that refusals alone do not bring about, a line each.

    These nonces, of requests whose signature verified, denials in the audit, and its seals may have been added.
    """
    used = set(nonces)
    found = []
    for table in sorted((before.keys() | after.keys()) - CHANGES_BY_ITSELF.keys()):
        was, now = before.get(table, Counter()), after.get(table, Counter())
        found += [f"{table} lost {dict(row)}" for row in was - now]
        found += [f"{table} got {dict(row)}" for row in now - was if not _is_of_a_refusal(table, dict(row), used)]
    return found


def _is_of_a_refusal(table: str, row: Mapping[str, Any], used: set[tuple[str, str]]) -> bool:
    match table:
        case "nonces":
            return (row.get("key_id"), row.get("nonce")) in used
        case "audit_events":
            return bool(row.get("outcome") == "denied")
        case _:
            return table == "audit_seals"
