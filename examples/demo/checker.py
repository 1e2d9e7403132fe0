"""The checker: what a demo run has left on disk, read with SQL of its own; nothing here is shared with the service.

`check(folder)` returns a sentence for each finding; an empty list is the good outcome. In the folder lie `cabinet.db`,
`artifacts`, `server.log` and `after-kill/cabinet.db`, a copy of the database as the SIGKILL left it.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

try:
    from pysqlite3 import dbapi2 as sqlite
except ImportError:  # no wheel for this platform
    import sqlite3 as sqlite

STAGES = ("parse", "photos", "publish", "export", "cleanup")
SHARED_FILES = frozenset({"index.html", "catalogue.csv", ".index.html.lock", ".catalogue.csv.lock"})
MENDED = frozenset({"MIC-001"})
"""What the demo finds among the dead letters, mends and rescues, so that it succeeds in the end."""

KILL_WINDOW = (0.25, 0.75)
"""The share of all stages between whose bounds the kill must fall, or it proves little."""

_DATA = Path(__file__).resolve().parents[1] / "listings" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What must come out: every reference once, and stage and error kind of those that end as dead letters."""

    references: frozenset[str]
    dead_letters: Mapping[str, tuple[str, str]]

    @property
    def stages(self) -> int:
        """How many stages succeed in all."""
        failing = sum(STAGES.index(stage) for stage, _ in self.dead_letters.values())
        return failing + len(STAGES) * (len(self.references) - len(self.dead_letters))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task that could not succeed: where it stopped and why."""

    reference: str
    stage: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much of everything a run has left."""

    tasks: int
    succeeded: int
    dead_letters: tuple[DeadLetter, ...]
    stages: int
    attempts: int
    lost: int
    replays: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AtKill:
    """What the database held when the process was killed: successes, and `running` as (reference, stage)."""

    stages: int
    running: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Task:
    id: str
    reference: str
    status: str
    stage: str
    stage_status: str
    error_kind: str


def expected_of_catalogue() -> Expected:
    """Read what must come out from the example's own data."""
    return Expected(
        references=frozenset(row["stock_number"] for row in _rows_of(_DATA / "catalogue.csv")),
        dead_letters={
            row["reference"]: (row["stage"], row["kind"])
            for row in _rows_of(_DATA / "expected_dead_letters.csv")
            if row["reference"] not in MENDED
        },
    )


def check(folder: Path, expected: Expected | None = None) -> list[str]:
    """Return all findings; without `expected` the whole catalogue is."""
    try:
        return list(_findings(folder, expected or expected_of_catalogue()))
    except (sqlite.Error, OSError, ValueError) as error:
        return [f"What was left cannot be read: {type(error).__name__}: {error}."]


def count(folder: Path) -> Counts:
    """Count what lies in the folder; says nothing about whether it is right."""
    with closing(_open(folder)) as database:
        succeeded = _one(database, "SELECT COUNT(*) FROM tasks WHERE status = 'succeeded'")
        return Counts(
            tasks=_one(database, "SELECT COUNT(*) FROM tasks"),
            succeeded=succeeded,
            dead_letters=tuple(_dead_letters_told(database)),
            stages=_one(database, "SELECT COUNT(*) FROM attempts WHERE outcome = 'succeeded'"),
            attempts=_one(database, "SELECT COUNT(*) FROM attempts"),
            lost=_one(database, "SELECT COUNT(*) FROM attempts WHERE outcome = 'lease_expired'"),
            replays=_one(database, "SELECT COALESCE(SUM(replays), 0) FROM idempotency_keys"),
            files=sum(len(files) for files in _recorded(database).values()),
        )


def at_kill(folder: Path) -> AtKill:
    """Read from the copy how far the run was when it was killed."""
    with closing(_open(folder / "after-kill")) as database:
        running = database.execute(
            "SELECT reference, attempts.stage FROM attempts JOIN tasks ON tasks.id = task_id"
            " WHERE outcome IS NULL ORDER BY reference"
        ).fetchall()
        return AtKill(
            stages=_one(database, "SELECT COUNT(*) FROM attempts WHERE outcome = 'succeeded'"),
            running=tuple((reference, stage) for reference, stage in running),
        )


def main() -> int:
    """Check the folder that the command line names; print the findings, exit 1 if there are any."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m examples.demo.checker FOLDER\n")
        return 2
    findings = check(Path(sys.argv[1]))
    print("\n".join(findings) or "nothing found: every task, stage, file and dead letter is as it must be")
    return 1 if findings else 0


def _findings(folder: Path, expected: Expected) -> Iterator[str]:
    with closing(_open(folder)) as database:
        tasks = _tasks(database)
        yield from _unsound(database)
        yield from _keys(database, expected)
        yield from _references(tasks, expected)
        yield from _not_ended(database, tasks)
        yield from _stages(database, tasks)
        yield from _dead_letters(tasks, expected)
        yield from _files(database, folder / "artifacts", {task.id: task.reference for task in tasks})
        yield from _gallery(folder / "artifacts", tasks)
        yield from _lost(database)
        yield from _kill(database, folder, expected)
        yield from _log(folder / "server.log")


def _unsound(database: Any) -> Iterator[str]:
    for (said,) in database.execute("PRAGMA integrity_check").fetchall():
        if said != "ok":
            yield f"The database is damaged: {said}."
    for table, *_ in database.execute("PRAGMA foreign_key_check").fetchall():
        yield f"A row of {table} refers to a row that is not there."


def _keys(database: Any, expected: Expected) -> Iterator[str]:
    """One task for each key, one key for each task, every key replayed."""
    keys = database.execute(
        "SELECT idem_key, replays, COUNT(tasks.id) FROM idempotency_keys LEFT JOIN tasks ON tasks.id = task_id"
        " GROUP BY actor_id, idem_key ORDER BY idem_key"
    ).fetchall()
    if len(keys) != len(expected.references):
        yield f"There are {len(keys)} idempotency keys; {len(expected.references)} were sent."
    for key, replays, number in keys:
        if number != 1:
            yield f"Idempotency key {key} has {number} tasks."
        if replays < 1:
            yield f"Idempotency key {key} was never replayed."
    for reference, number in database.execute(
        "SELECT reference, COUNT(idem_key) FROM tasks LEFT JOIN idempotency_keys ON task_id = tasks.id"
        " GROUP BY tasks.id HAVING COUNT(idem_key) <> 1 ORDER BY reference"
    ).fetchall():
        yield f"A task of {reference} belongs to {number} idempotency keys."


def _references(tasks: list[_Task], expected: Expected) -> Iterator[str]:
    found = Counter(task.reference for task in tasks)
    for reference in sorted(expected.references | found.keys()):
        if reference not in expected.references:
            yield f"A task of {reference} is there, which nobody sent."
        elif found[reference] != 1:
            yield f"{reference} has {found[reference]} tasks."


def _not_ended(database: Any, tasks: list[_Task]) -> Iterator[str]:
    """Nothing is open: no task, no attempt, no job and so no lease."""
    ends = {("succeeded", "succeeded"), ("failed", "dead_letter")}
    for task in tasks:
        if (task.status, task.stage_status) not in ends:
            yield f"{task.reference} has not ended: the task is {task.status}, its stage {task.stage_status}."
    for reference, stage in database.execute(
        "SELECT reference, attempts.stage FROM attempts JOIN tasks ON tasks.id = task_id WHERE outcome IS NULL"
    ).fetchall():
        yield f"{reference} has an attempt of {stage} that has not ended."
    for reference, stage, worker in database.execute(
        "SELECT reference, stage, worker FROM jobs LEFT JOIN tasks ON tasks.id = task_id"
    ).fetchall():
        yield f"{reference} has a job left over at {stage}, {'leased by ' + worker if worker else 'not leased'}."


def _stages(database: Any, tasks: list[_Task]) -> Iterator[str]:
    """No stage succeeded twice; all succeeded up to where the task ended; each left its outputs once."""
    rows = "SELECT task_id, stage, COUNT(*) FROM attempts WHERE outcome = 'succeeded' GROUP BY task_id, stage"
    successes = {(task, stage): number for task, stage, number in database.execute(rows).fetchall()}
    outputs = set(database.execute("SELECT task_id, stage FROM outputs").fetchall())
    for task in tasks:
        needed = STAGES if task.status == "succeeded" else STAGES[: STAGES.index(task.stage)]
        for stage in STAGES:
            number = successes.get((task.id, stage), 0)
            if number > 1 or number != (stage in needed):
                yield f"{task.reference}: {stage} succeeded {number} times, not {int(stage in needed)}."
            if ((task.id, stage) in outputs) != (number > 0):
                yield f"{task.reference}: the outputs of {stage} do not match its success."


def _dead_letters(tasks: list[_Task], expected: Expected) -> Iterator[str]:
    found = {task.reference: (task.stage, task.error_kind) for task in tasks if task.status == "failed"}
    for reference in sorted(found.keys() | expected.dead_letters.keys()):
        is_now, should_be = found.get(reference), expected.dead_letters.get(reference)
        if should_be is None:
            yield f"{reference} is a dead letter ({_joined(is_now)}); it should have succeeded."
        elif is_now is None:
            yield f"{reference} is no dead letter; it should be one ({_joined(should_be)})."
        elif is_now != should_be:
            yield f"{reference} is a dead letter of {_joined(is_now)}; it should be one of {_joined(should_be)}."


def _files(database: Any, artifacts: Path, references: Mapping[str, str]) -> Iterator[str]:
    """What the outputs record lies on disk unchanged, and nothing else does."""
    recorded = {path: record for files in _recorded(database).values() for path, record in files.items()}
    for owner, files in _recorded(database).items():
        yield from (f"{path} was recorded by another task." for path in files if not path.startswith(f"{owner}/"))
    present = {path.relative_to(artifacts).as_posix(): path for path in artifacts.rglob("*") if not path.is_dir()}
    for name in sorted(recorded.keys() | present.keys()):
        called = f"{references.get(name.partition('/')[0], 'no task')}: {name}"
        if name not in present:
            yield f"{called} is missing."
        elif name in recorded:
            content = present[name].read_bytes()
            if recorded[name] != {"sha256": sha256(content).hexdigest(), "bytes": len(content)}:
                yield f"{called} has changed since it was recorded."
        elif name not in SHARED_FILES:
            yield f"{called} was recorded by no stage."


def _gallery(artifacts: Path, tasks: list[_Task]) -> Iterator[str]:
    """Gallery and catalogue list what has succeeded, each item once."""
    succeeded = {task.id: task.reference for task in tasks if task.status == "succeeded"}
    cards = _Cards((artifacts / "index.html").read_text(encoding="utf-8")).folders
    yield from _listed("The gallery", succeeded.values(), (succeeded.get(folder, folder) for folder in cards))
    rows = _rows_of(artifacts / "catalogue.csv")
    yield from _listed("The catalogue", succeeded.values(), (row["stock_number"] for row in rows))


def _listed(place: str, wanted: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    should_be, is_now = Counter(wanted), Counter(found)
    for name in sorted(should_be.keys() | is_now.keys()):
        if is_now[name] != should_be[name]:
            yield f"{place} lists {name} {is_now[name]} times, not {should_be[name]}."


def _lost(database: Any) -> Iterator[str]:
    """The kill has cost attempts, and each of them was made again."""
    lost = database.execute(
        "SELECT reference, lost.stage, (SELECT COUNT(*) FROM attempts AS later WHERE later.task_id = lost.task_id"
        " AND later.stage = lost.stage AND later.started_at > lost.started_at"
        " AND later.outcome IN ('succeeded', 'failed'))"
        " FROM attempts AS lost JOIN tasks ON tasks.id = lost.task_id WHERE lost.outcome = 'lease_expired'"
    ).fetchall()
    if not lost:
        yield "No attempt was lost to the kill: it has proved nothing."
    for reference, stage, later in lost:
        if not later:
            yield f"{reference}: the lost attempt of {stage} was not made again."


def _kill(database: Any, folder: Path, expected: Expected) -> Iterator[str]:
    """What was on disk at the kill is still there, and just the attempts that ran then were lost."""
    share = at_kill(folder).stages / expected.stages
    if not KILL_WINDOW[0] <= share <= KILL_WINDOW[1]:
        yield f"The kill came when {share:.0%} of the stages were recorded, not in the middle."
    with closing(_open(folder / "after-kill")) as before:
        created = "SELECT id, reference, created_by, created_at, payload_json FROM tasks"
        for _, reference, *_ in sorted(_all(before, created) - _all(database, created)):
            yield f"The task of {reference} was there at the kill and is not any more as it was."
        done = "SELECT task_id, stage, lease_token, ended_at FROM attempts WHERE outcome = 'succeeded'"
        for task, stage, *_ in sorted(_all(before, done) - _all(database, done)):
            yield f"The success of {stage} in task {task} was there at the kill and is not any more."
        ran = _all(before, "SELECT task_id, lease_token, stage FROM attempts WHERE outcome IS NULL")
    lost = _all(database, "SELECT task_id, lease_token, stage FROM attempts WHERE outcome = 'lease_expired'")
    for task, _, stage in sorted(ran ^ lost):
        yield f"The attempt of {stage} in task {task} ran at the kill or was lost, but not both."


def _log(path: Path) -> Iterator[str]:
    """The server has told of nothing that it did not foresee; its lines are JSON, a crash's are not."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.startswith("{"):
            yield f"Line {number} of the server's log is no log line: {line[:100]}"
        elif '"level": "error"' in line or '"level": "critical"' in line:
            yield f"Line {number} of the server's log tells of an error: {json.loads(line)['event']}."


class _Cards(HTMLParser):
    """Collects the folders that the gallery's cards link to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.folders: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and given.get("class") == "card":
            self.folders.append((given.get("href") or "").removesuffix("/index.html"))


def _open(folder: Path) -> Any:
    """Open the folder's database, which must be there, and change no row of it.

    On a connection with mode=ro, SQLite's integrity_check leaves the CHECK constraints out.
    """
    database = sqlite.connect(f"{(folder / 'cabinet.db').resolve().as_uri()}?mode=rw", uri=True)
    database.execute("PRAGMA query_only = ON")
    return database


def _tasks(database: Any) -> list[_Task]:
    rows = database.execute(
        "SELECT tasks.id, reference, tasks.status, stage, pipeline_states.status, last_error_kind"
        " FROM tasks LEFT JOIN pipeline_states ON task_id = tasks.id ORDER BY reference"
    ).fetchall()
    return [_Task(*(str(value) for value in row)) for row in rows]


def _dead_letters_told(database: Any) -> Iterator[DeadLetter]:
    for reference, stage, kind, message in database.execute(
        "SELECT reference, states.stage, last_error_kind, COALESCE(MAX(error_message), '')"
        " FROM pipeline_states AS states JOIN tasks ON tasks.id = states.task_id"
        " LEFT JOIN attempts ON attempts.task_id = tasks.id AND attempts.stage = states.stage AND outcome = 'failed'"
        " WHERE states.status = 'dead_letter' GROUP BY tasks.id ORDER BY reference"
    ).fetchall():
        yield DeadLetter(reference=reference, stage=stage, kind=kind, message=message)


def _recorded(database: Any) -> dict[str, dict[str, Any]]:
    """Return the files that each task has recorded, later stages over earlier ones."""
    recorded: dict[str, dict[str, Any]] = {}
    for task, text in database.execute("SELECT task_id, value_json FROM outputs ORDER BY created_at").fetchall():
        recorded.setdefault(task, {}).update(json.loads(text).get("files", {}))
    return recorded


def _one(database: Any, statement: str) -> int:
    return int(database.execute(statement).fetchone()[0])


def _all(database: Any, statement: str) -> set[tuple[str, ...]]:
    return set(database.execute(statement).fetchall())


def _rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _joined(place: tuple[str, str] | None) -> str:
    return " ".join(place or ())


if __name__ == "__main__":
    sys.exit(main())
