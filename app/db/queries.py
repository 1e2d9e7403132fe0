"""The loader of named SQL: files of `-- name: verb` blocks become queries, and the portable subset is enforced."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.errors import BadQueries

_BLOCK = re.compile(r"^-- name: *([a-z_]+) *$", re.MULTILINE)
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_SPACE_OR_LITERAL = re.compile(r"(?:--[^\n]*|/\*.*?\*/|\s)+|('(?:[^']|'')*')", re.DOTALL)
_PARAMETER = re.compile(r":([a-z][a-z0-9_]*)")
_WRITE = re.compile(r"\b(INSERT|DELETE|(?<!FOR )UPDATE)\b", re.IGNORECASE)
_FORBIDDEN = (
    (re.compile(r"\b(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA|ATTACH|DETACH|VACUUM)\b", re.IGNORECASE),
     "holds a word that belongs to the store: transactions and pragmas are not a query's business"),
    (re.compile(r"^(END|ABORT|START)\b", re.IGNORECASE), "begins with a verb that belongs to the store"),
    (re.compile(r"\b(CREATE|ALTER|DROP|REINDEX|ANALYZE)\b", re.IGNORECASE), "changes the schema; write a migration"),
    (re.compile(r"\bREPLACE\s+INTO\b|\bOR\s+REPLACE\b", re.IGNORECASE), "uses REPLACE, which only SQLite has"),
    (re.compile(r"::"), "uses ::, which only PostgreSQL has; write CAST(… AS …)"),
    (re.compile(r"%"), "holds a %, which a driver takes for a placeholder"),
    (re.compile(r"\?"), "holds a ?; parameters have names"),
    (re.compile(r";"), "holds a semicolon; a query is one statement"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One statement of sql/queries as one engine runs it."""

    name: str
    text: str
    parameters: frozenset[str]
    writes: bool


def load_queries(folder: Path, *, engine: str) -> Mapping[str, Query]:
    """Read every file of the folder; the result is keyed `file.verb`, such as `tasks.add`.

    Raises BadQueries, naming the query, if a text leaves the portable subset (design §4).
    """
    loaded: dict[str, Query] = {}
    for path in sorted(folder.glob("*.sql")):
        for verb, text in _blocks(path):
            name = f"{path.stem}.{verb}"
            if name in loaded:
                raise BadQueries(f"{name} is there twice")
            loaded[name] = parse_query(name, text, engine=engine)
    if not loaded:
        raise BadQueries(f"there are no queries in {folder}")
    return loaded


def parse_query(name: str, text: str, *, engine: str) -> Query:
    """Make one query from its text, or raise BadQueries."""
    opened = _tidy(open_dialect_marks(text, engine=engine)).strip()
    literals = _LITERAL.findall(opened)
    bare = _LITERAL.sub("''", opened)
    if any(":" in literal for literal in literals):
        raise BadQueries(f"{name} holds a colon in a literal, which a driver takes for a parameter")
    for pattern, why in _FORBIDDEN:
        if pattern.search(bare):
            raise BadQueries(f"{name} {why}")
    writes = _WRITE.search(bare) is not None
    if writes and not re.search(r"\bRETURNING\b", bare, re.IGNORECASE):
        raise BadQueries(f"{name} writes and does not say RETURNING")
    return Query(name, opened, frozenset(_PARAMETER.findall(bare)), writes)


def open_dialect_marks(text: str, *, engine: str) -> str:
    """Uncomment the marks `/* engine: … */` of that engine; those of the others stay comments."""
    return re.sub(rf"/\*\s*{engine}:(.*?)\*/", r"\1", text, flags=re.DOTALL)


def _blocks(path: Path) -> list[tuple[str, str]]:
    head, *parts = _BLOCK.split(path.read_text(encoding="utf-8"))
    if _tidy(head).strip():
        raise BadQueries(f"{path.name} holds SQL before its first '-- name:'")
    return list(zip(parts[::2], parts[1::2], strict=True))


def _tidy(text: str) -> str:
    """Put one space in place of comments and white space, and leave literals as they are."""
    return _SPACE_OR_LITERAL.sub(lambda found: found[1] or " ", text)
