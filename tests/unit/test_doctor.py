"""`cabinet admin doctor`: what each check says, by facts given to it by hand; and the command, in this process."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import click
import pytest
from click.testing import CliRunner, Result

from app.cli import cabinet
from app.cli.examinations import Examination, amounts, configuration, contents, disks, files, rights, work
from app.cli.examinations.amounts import GIGABYTE, MEGABYTE
from app.cli.examinations.disks import Room
from app.cli.examinations.files import Files
from app.cli.examinations.findings import Check, Finding, Level, alone, exit_code, reason
from app.cli.examinations.rights import Place
from app.clock import Timestamp, later
from app.db import ownership
from app.db.inspection import log_of
from app.db.ownership import own
from app.domain.control import EVERYTHING, Heartbeat, LivingWorker, Pause
from app.domain.jobs import LeasedJob
from app.errors import StorageFailed
from app.ids import new_id
from app.services.examination import COUNTED_LIMIT, Examined
from app.settings import Settings
from tests.support.clocks import HandClock
from tests.support.database import NOW, connect, driver_error
from tests.support.processes import environment
from tests.unit.conftest import Run

T = TypeVar("T")

DATABASE = Path("/srv/cabinet/cabinet.db")
TASK = new_id()

OK, NOTE, WARNING, FAULT = Level


def levels(findings: Iterator[Finding] | Sequence[Finding]) -> list[Level]:
    """Return only how much each matters."""
    return [finding.level for finding in findings]


def only(found: Iterator[T] | Sequence[T]) -> T:
    """Return the one there is."""
    [one] = found
    return one


# Disks ---------------------------------------------------------------------------------------------------------------

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:27 / /srv rw - xfs /dev/vdb rw
31 30 0:28 / /srv/cabinet rw - nfs4 server:/export rw
32 30 0:29 / /srv/with\040space rw - tmpfs tmpfs rw
33 27 0:30 / /twice rw - ext4 /dev/vdc rw
34 27 0:31 / /twice rw - overlay overlay rw
a line that means nothing
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/", "ext4"), ("/home/x", "ext4"), ("/srv", "xfs"), ("/srv/cabinet/db", "nfs4"), ("/srv/cabinets", "xfs"),
     ("/srv/with space", "tmpfs"), ("/twice/x", "overlay")],
)  # fmt: skip
def test_the_kind_of_a_file_system_is_that_of_the_deepest_and_last_mount(place: str, kind: str) -> None:
    assert disks.kind_of(Path(place), MOUNTS) == kind


def test_without_mounts_there_is_no_kind() -> None:
    assert disks.kind_of(Path("/srv"), "") is None


@pytest.mark.parametrize(
    ("kind", "in_prod", "in_dev"),
    [("ext4", OK, OK), ("xfs", OK, OK), ("btrfs", OK, OK), ("zfs", OK, OK), ("apfs", OK, OK),
     ("nfs", FAULT, FAULT), ("nfs4", FAULT, FAULT), ("cifs", FAULT, FAULT), ("smb3", FAULT, FAULT),
     ("9p", FAULT, FAULT), ("virtiofs", FAULT, FAULT), ("fuse.sshfs", FAULT, FAULT), ("fuse.glusterfs", FAULT, FAULT),
     ("ceph", FAULT, FAULT), ("lustre", FAULT, FAULT), ("tmpfs", FAULT, WARNING), ("ramfs", FAULT, WARNING),
     ("overlay", WARNING, WARNING), (None, NOTE, NOTE)],
)  # fmt: skip
def test_a_file_system_that_sqlite_cannot_work_on_is_a_fault(kind: str | None, in_prod: Level, in_dev: Level) -> None:
    prod = only(disks.examine_kind(kind, DATABASE.parent, is_prod=True))
    dev = only(disks.examine_kind(kind, DATABASE.parent, is_prod=False))

    assert (prod.level, dev.level) == (in_prod, in_dev)
    assert (prod.remedy is None) is (in_prod is OK)


def a_room(what: str = "the database", *, free: int = 10 * GIGABYTE, left: int | None = None, device: int = 1) -> Room:
    """Make a disk with some room."""
    return Room(what=what, folder=DATABASE.parent, device=device, bytes=free, files=left)


@pytest.mark.parametrize(
    ("free", "database_bytes", "level"),
    [(10 * GIGABYTE, 0, OK), (GIGABYTE, 0, OK), (GIGABYTE - 1, 0, WARNING), (100 * MEGABYTE, 0, WARNING),
     (100 * MEGABYTE - 1, 0, FAULT), (0, 0, FAULT), (10 * GIGABYTE, 5 * GIGABYTE, OK),
     (10 * GIGABYTE - 1, 5 * GIGABYTE, WARNING)],
)  # fmt: skip
def test_a_disk_that_fills_up_is_told_before_it_is_full(free: int, database_bytes: int, level: Level) -> None:
    found = only(disks.examine_room([a_room(free=free)], database_bytes=database_bytes))

    assert found.level is level
    assert (found.remedy is None) is (level is OK)


def test_two_places_on_one_disk_are_told_once_and_on_two_disks_twice() -> None:
    here, there = a_room(), a_room("the folders of tasks", free=0)

    one = list(disks.examine_room([here, a_room("the folders of tasks")], database_bytes=0))
    two = list(disks.examine_room([here, a_room("the folders of tasks", free=0, device=2)], database_bytes=0))

    assert [found.says for found in one] == ["10 GB free for the database and the folders of tasks"]
    assert levels(two) == [OK, FAULT]
    assert "the folders of tasks" in two[1].says
    assert levels(disks.examine_room([there], database_bytes=GIGABYTE)) == [FAULT]


@pytest.mark.parametrize(
    ("left", "expected"), [(None, [OK]), (10_000, [OK]), (9_999, [OK, WARNING]), (999, [OK, FAULT])]
)
def test_files_can_run_out_before_bytes_do(left: int | None, expected: list[Level]) -> None:
    assert levels(disks.examine_room([a_room(left=left)], database_bytes=0)) == expected


def test_room_is_measured_where_a_folder_will_lie(tmp_path: Path) -> None:
    room = disks.measure("the folders of tasks", tmp_path / "not" / "yet")

    assert room.folder == tmp_path
    assert room.bytes > 0
    assert (room.files is None) is (os.statvfs(tmp_path).f_files == 0)


# Rights --------------------------------------------------------------------------------------------------------------


def a_place(name: str = "cabinet.db", *, owner: int = 10, mode: int = 0o100600, is_usable: bool = True) -> Place:
    """Make a file that belongs to user 10."""
    return Place(path=DATABASE.with_name(name), owner=owner, mode=mode, is_usable=is_usable)


FOLDER = 0o040000


@pytest.mark.parametrize(
    ("place", "in_prod", "in_dev", "words"),
    [
        (a_place(), [OK], [OK], "alone"),
        (a_place(mode=FOLDER | 0o755), [OK], [OK], "alone"),
        (a_place(mode=0o100640), [WARNING], [WARNING], "chmod 600 /srv/cabinet/cabinet.db"),
        (a_place(mode=0o100604), [WARNING], [WARNING], "chmod 600 /srv/cabinet/cabinet.db"),
        (a_place(mode=0o100620), [OK], [WARNING], "chmod go-w /srv/cabinet/cabinet.db"),
        (a_place(mode=FOLDER | 0o777), [OK], [WARNING], "chmod go-w /srv/cabinet/cabinet.db"),
        (a_place(owner=0), [WARNING], [WARNING], "belongs to user 0, not to this user (10)"),
        (a_place(owner=0, is_usable=False), [FAULT], [FAULT], "this user (10) may not read and write"),
        (a_place(owner=0, mode=FOLDER | 0o755, is_usable=False), [FAULT], [FAULT], "may not make files in"),
        (a_place("cabinet db", is_usable=False), [FAULT], [FAULT], "chown 10 '/srv/cabinet/cabinet db'"),
    ],
)
def test_rights_that_are_too_few_or_too_many_are_told(
    place: Place, in_prod: list[Level], in_dev: list[Level], words: str
) -> None:
    prod = list(rights.examine_rights([place], user=10, is_prod=True))
    dev = list(rights.examine_rights([place], user=10, is_prod=False))

    assert (levels(prod), levels(dev)) == (in_prod, in_dev)
    assert words in f"{dev[0].says} {dev[0].remedy}"


def test_what_is_mounted_read_only_is_not_for_chown_to_mend() -> None:
    places = [
        Place(path=DATABASE.with_name(name), owner=0, mode=0o100600, is_usable=False, is_mounted_read_only=True)
        for name in ("a", "b")
    ]

    found = only(rights.examine_rights(places, user=0, is_prod=True))

    assert found.level is FAULT
    assert found.says == "nobody can write /srv/cabinet/a, /srv/cabinet/b: mounted read-only"
    assert "chown" not in (found.remedy or "")


def test_a_mount_that_is_read_only_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = only(rights.look_at([tmp_path]))

    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    after = only(rights.look_at([tmp_path]))

    assert (before.is_mounted_read_only, after.is_mounted_read_only) == (False, True)


def test_many_files_with_one_fault_are_one_line() -> None:
    places = [a_place(name, owner=0) for name in ("a", "b", "c", "d", "e")]

    found = only(rights.examine_rights(places, user=10, is_prod=True))

    assert found.says.startswith("/srv/cabinet/a, /srv/cabinet/b, /srv/cabinet/c and 2 more belong to user 0")


@pytest.mark.parametrize(
    ("modes", "level"), [([], OK), ([0o100600, 0o100640], OK), ([0o100600, 0o100644], WARNING), ([FOLDER | 0o755], OK)]
)
def test_a_secret_that_everybody_may_read_is_told(modes: list[int], level: Level) -> None:
    places = [a_place(f"secret-{mode}", mode=mode) for mode in modes]

    assert only(rights.examine_secrets(places)).level is level


def test_a_place_is_looked_at_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "cabinet.db"
    path.touch(mode=0o640)

    place = only(rights.look_at([path, tmp_path / "nothing"]))

    assert (place.path, place.owner, place.mode & 0o777, place.is_folder) == (path, os.geteuid(), 0o640, False)
    assert place.is_usable
    assert only(rights.look_at([tmp_path])).is_folder


# Files ---------------------------------------------------------------------------------------------------------------


def the_files(
    *, size: int | None = 5 * MEGABYTE, log: int | None = None, owner: str | None = None, **changes: Any
) -> Files:
    """Make what lies where the database lies."""
    return Files(database=DATABASE, database_bytes=size, log_bytes=log, owner=owner, **changes)


def test_who_serves_is_told() -> None:
    served, alone_ = only(files.examine_service(the_files(owner="42"))), only(files.examine_service(the_files()))

    assert (served.level, served.says) == (OK, "process 42 serves this database")
    assert (alone_.level, alone_.remedy) == (NOTE, "If nothing is a fault: cabinet serve")


def test_a_restore_is_told_as_what_it_is() -> None:
    restored = the_files(size=None, owner="42", is_restored=True)

    service, restore = only(files.examine_service(restored)), only(files.examine_restore(restored))

    assert (service.level, service.says) == (NOTE, "process 42 is restoring this database")
    assert (restore.level, restore.says) == (OK, "one is under way")
    assert not restored.is_served


@pytest.mark.parametrize(("size", "level"), [(None, FAULT), (1, WARNING)])
def test_a_restore_that_was_interrupted_is_a_fault_once_the_database_is_gone(size: int | None, level: Level) -> None:
    found = only(files.examine_restore(the_files(size=size, interrupted="It was. Run that again.")))

    assert found.level is level
    assert (found.remedy == "Do not start the service. Run that again.") is (level is FAULT)


def test_where_the_next_start_makes_a_database_a_missing_one_is_a_warning_and_elsewhere_a_fault() -> None:
    made = only(files.examine_missing(the_files(size=None), migrates=True))
    missing = only(files.examine_missing(the_files(size=None), migrates=False))

    assert (made.level, missing.level) == (WARNING, FAULT)
    assert (missing.remedy or "").endswith("cabinet migrate")


@pytest.mark.parametrize(
    ("log", "level"),
    [(None, OK), (64 * MEGABYTE, OK), (64 * MEGABYTE + 1, WARNING), (GIGABYTE, WARNING), (GIGABYTE + 1, FAULT)],
)
@pytest.mark.parametrize(("owner", "remedy"), [("42", "fuser -v /srv/cabinet/cabinet.db"), (None, "The next start")])
def test_a_log_that_grows_is_told(log: int | None, level: Level, owner: str | None, remedy: str) -> None:
    found = only(files.examine_log_size(the_files(log=log, owner=owner)))

    assert found.level is level
    assert (remedy in (found.remedy or "")) is (level is not OK)


# Contents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "level"),
    [("3.34.1", FAULT), ("3.35.0", NOTE), ("3.40.1", NOTE), ("3.51.2", NOTE), ("3.51.3", OK), ("3.53.4", OK)],
)
def test_a_version_of_sqlite_with_a_known_bug_is_a_note_and_one_without_returning_a_fault(
    version: str, level: Level
) -> None:
    assert only(contents.examine_sqlite(version)).level is level


def examined(**changes: Any) -> Examined:
    """Make a database in which all is well and nothing to do."""
    values: dict[str, Any] = {
        "probed_at": None, "newest": {}, "overdue_leases": (), "overdue_cancels": (), "workers": (),
        "due_stages": frozenset(), "waiting_since": {}, "counts": {}, "pauses": {}, "unknown_stages": {},
        "dead_letters": {},
    }  # fmt: skip
    return Examined(**(values | changes))


@pytest.mark.parametrize(
    ("ahead", "level"),
    [(None, OK), (-60.0, OK), (5.0, OK), (5.1, WARNING), (300.0, WARNING), (300.1, FAULT), (86_400.0 * 9, FAULT)],
)
def test_a_clock_behind_the_database_is_told_with_how_far(ahead: float | None, level: Level) -> None:
    newest = {} if ahead is None else {"the newest task": later(NOW, ahead), "the oldest": later(NOW, -9e6)}

    found = only(contents.examine_clock(examined(newest=newest), now=NOW))

    assert found.level is level
    assert ("the newest task is from" in found.says) is (level is not OK)


def test_a_clock_that_began_anew_is_a_fault_even_on_an_empty_database() -> None:
    found = only(contents.examine_clock(examined(), now=Timestamp("1970-01-01T00:00:09.000000Z")))

    assert found.level is FAULT
    assert "1970-01-01T00:00:09Z" in found.says


@pytest.mark.parametrize(
    ("owner", "log", "age", "words"),
    [
        ("42", 1, 3.0, None),
        ("42", 1, 20.0, None),
        ("42", 1, 21.0, "process 42 holds this database, but has not written for 21 s"),
        (None, 1, 3.0, "something served 3 s ago, and nobody holds the lock"),
        (None, 1, 21.0, None),
        (None, 1, -3.0, None),
        (None, None, 3.0, None),
        (None, 0, 3.0, None),
        ("42", 1, None, None),
    ],
)
def test_a_lock_and_signs_of_life_that_do_not_agree_are_told(
    owner: str | None, log: int | None, age: float | None, words: str | None
) -> None:
    seen = examined(probed_at=None if age is None else later(NOW, -age))

    found = list(contents.examine_signs(seen, the_files(owner=owner, log=log), now=NOW))

    assert levels(found) == ([] if words is None else [WARNING])
    assert all((words or "") in finding.says for finding in found)


# Work ----------------------------------------------------------------------------------------------------------------


def a_worker(*, leased: int = 0, stuck: int = 0) -> LivingWorker:
    """Make a worker with four slots."""
    heartbeat = Heartbeat(
        name="w", concurrency=4, stuck={"parse": stuck}, lost_leases=0, stages={"parse": None, "photos": None}
    )
    return LivingWorker(heartbeat=heartbeat, started_at=NOW, seen_at=NOW, leased={"parse": leased})


def a_pause(stage: str = "parse") -> Pause:
    """Make a pause with a reason of two lines."""
    return Pause(stage=stage, reason="the shop\nmoves", paused_by="id", paused_at=NOW, subject="root")


def some_jobs(count: int) -> list[LeasedJob]:
    """Make jobs that somebody holds."""
    return [LeasedJob(task_id=TASK, stage="parse", lease_token="t", crashes=0, is_cancelled=False)] * count


DUE = frozenset({"parse"})
LATE = {"due_stages": DUE, "waiting_since": {"parse": later(NOW, -60)}}


def workers_of(seen: Examined, *, is_served: bool, owned_for: float = 9_000) -> Finding:
    """Return what is told of the workers, with 60 seconds of grace and so many since the process began to serve."""
    looks = dict(
        work.examine_work(seen, now=NOW, owned_since=later(NOW, -owned_for), grace_seconds=60, is_served=is_served)
    )
    return only(looks[Check.WORKERS]())


@pytest.mark.parametrize(
    ("facts", "is_served", "level", "words"),
    [
        ({}, False, OK, "none, because nobody serves"),
        ({"due_stages": DUE}, False, OK, "none, because nobody serves"),
        ({}, True, OK, "none lives, and no work is due"),
        ({"due_stages": DUE}, True, NOTE, "work is due at parse, and no worker lives yet, or no longer"),
        (LATE, True, FAULT, "work is due at parse, and no worker lives"),
        (LATE | {"waiting_since": {"parse": later(NOW, -59)}}, True, NOTE, "no worker lives yet"),
        (LATE | {"waiting_since": {"photos": later(NOW, -60)}}, True, NOTE, "no worker lives yet"),
        ({"due_stages": DUE, "pauses": {"parse": a_pause()}}, True, OK, "no work is due"),
        ({"due_stages": DUE, "pauses": {EVERYTHING: a_pause(EVERYTHING)}}, True, OK, "no work is due"),
        (LATE | {"pauses": {"photos": a_pause("photos")}}, True, FAULT, "work is due"),
        ({"due_stages": DUE, "unknown_stages": {"parse": 3}}, True, OK, "no work is due"),
        ({"due_stages": DUE, "workers": [a_worker(leased=2)]}, True, OK, "1 worker, 2 of 4 slots taken"),
        ({"workers": [a_worker(), a_worker(stuck=1)]}, True, WARNING, "1 of 8 slots are held by attempts that overran"),
    ],
)
def test_whether_somebody_works_is_told(facts: dict[str, Any], is_served: bool, level: Level, words: str) -> None:
    found = workers_of(examined(**facts), is_served=is_served)

    assert found.level is level
    assert words in found.says


@pytest.mark.parametrize(("seconds", "level"), [(0, NOTE), (59, NOTE), (60, FAULT)])
def test_a_service_that_has_just_started_may_have_no_worker_yet(seconds: float, level: Level) -> None:
    waiting = LATE | {"waiting_since": {"parse": later(NOW, -86_400)}}

    assert workers_of(examined(**waiting), is_served=True, owned_for=seconds).level is level


def test_the_grace_is_two_leases_and_no_shorter_than_a_drain() -> None:
    def grace(**values: float) -> float:
        return work.grace(Settings.model_validate(values))

    assert grace(worker_lease_seconds=5) == 20
    assert grace(worker_lease_seconds=30) == 60
    assert grace(worker_lease_seconds=30, drain_seconds=300) == 300


@pytest.mark.parametrize("examine", [work.examine_leases, work.examine_cancelled])
def test_what_nobody_took_back_is_bad_while_somebody_serves_and_to_be_expected_otherwise(examine: Any) -> None:
    none = only(examine([], is_served=True))
    served = only(examine(some_jobs(2), is_served=True))
    stopped = only(examine(some_jobs(1), is_served=False))
    many = only(examine(some_jobs(COUNTED_LIMIT), is_served=True))

    assert none.level is OK
    assert served.level is (FAULT if examine is work.examine_leases else WARNING)
    assert "2 tasks" in served.says
    assert f"{TASK} at stage parse and others" in served.says
    assert stopped.level is NOTE
    assert "1 task " in stopped.says
    assert "100 or more tasks" in many.says


def test_what_waits_too_long_is_told_by_stage_the_longest_first() -> None:
    waiting = {"photos": later(NOW, -700), "parse": later(NOW, -7_200), "export": later(NOW, -9_000), "old": NOW}
    seen = examined(
        waiting_since=waiting, counts={"photos": 1, "parse": 30}, pauses={"export": a_pause("export")},
        unknown_stages={"old": 1},
    )  # fmt: skip

    found = list(work.examine_waiting(seen, now=NOW, is_served=True))

    assert levels(found) == [WARNING, WARNING]
    assert found[0].says == "a task that could run has waited for 2 h at stage parse, one of 30 there"
    assert found[1].says == "a task that could run has waited for 12 min at stage photos, one of 1 there"


def test_what_has_waited_for_less_than_ten_minutes_is_not_told() -> None:
    seen = examined(waiting_since={"parse": later(NOW, -599)})

    assert levels(work.examine_waiting(seen, now=NOW, is_served=True)) == [OK]


def test_nothing_waits_too_long_while_everything_is_paused() -> None:
    seen = examined(waiting_since={"parse": later(NOW, -7_200)}, pauses={EVERYTHING: a_pause(EVERYTHING)})

    assert levels(work.examine_waiting(seen, now=NOW, is_served=True)) == [OK]


def test_waiting_while_nobody_serves_has_another_remedy() -> None:
    seen = examined(waiting_since={"parse": later(NOW, -7_200)})

    assert (
        only(work.examine_waiting(seen, now=NOW, is_served=False)).remedy
        == "The next start of the service takes it up."
    )


def test_pauses_are_told_with_reason_and_since_when() -> None:
    seen = examined(pauses={EVERYTHING: a_pause(EVERYTHING), "parse": a_pause()})

    found = list(work.examine_pauses(seen))

    assert levels(found) == [NOTE, NOTE]
    assert found[0].says == "everything has been paused by root since 2026-11-22T20:19:00Z: the shop moves"
    assert [(finding.remedy or "").rsplit(" ", 1)[1] for finding in found] == [
        "/v1/stages/resume",
        "/v1/stages/parse/resume",
    ]
    assert levels(work.examine_pauses(examined())) == [OK]


def test_stages_that_the_pipeline_lost_are_a_warning_and_dead_letters_a_note() -> None:
    seen = examined(unknown_stages={"old": 1, "older": 2}, dead_letters={"parse": 1, "photos": 40})

    lost, letters = list(work.examine_stages(seen)), only(work.examine_dead_letters(seen))

    assert levels(lost) == [WARNING, WARNING]
    assert lost[0].says == "1 task at stage old, which the pipeline does not have"
    assert (letters.level, letters.says) == (NOTE, "41 tasks failed for good: 1 at parse, 40 at photos")
    assert levels([*work.examine_stages(examined()), *work.examine_dead_letters(examined())]) == [OK, OK]


# Findings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([], 0),
        ([(Check.CLOCK, OK), (Check.SERVICE, NOTE), (Check.STAGES, WARNING), (Check.MIGRATIONS, WARNING)], 0),
        ([(Check.CLOCK, FAULT)], 1),
        ([(Check.MIGRATIONS, FAULT)], 4),
        ([(Check.MIGRATIONS, FAULT), (Check.SETTINGS, NOTE), (Check.RIGHTS, WARNING)], 4),
        ([(Check.MIGRATIONS, FAULT), (Check.CLOCK, FAULT)], 1),
        ([(Check.SETTINGS, FAULT)], 3),
        ([(Check.PIPELINE, FAULT)], 3),
        ([(Check.CLOCK, FAULT), (Check.SETTINGS, FAULT), (Check.MIGRATIONS, FAULT)], 3),
    ],
)
def test_the_exit_code_follows_from_the_faults_alone(found: list[tuple[Check, Level]], code: int) -> None:
    assert exit_code(Finding(check, level, "…") for check, level in found) == code


@pytest.mark.parametrize(
    ("error", "says", "remedy"),
    [
        (PermissionError(13, "Permission denied", "/srv/x"), "/srv/x: Permission denied", "as the user that runs"),
        (ValueError("no\nsense"), "no sense", "Mend what is named"),
        (ZeroDivisionError(), "ZeroDivisionError", "Mend what is named"),
    ],
)
def test_a_check_that_raises_is_a_finding_and_what_it_found_before_stays(
    error: Exception, says: str, remedy: str
) -> None:
    def look() -> Iterator[Finding]:
        yield Finding(Check.CLOCK, OK, "fine")
        raise error

    found = list(alone(Check.CLOCK, look))

    assert levels(found) == [OK, FAULT]
    assert found[1].says == f"could not be looked at: {says}"
    assert remedy in (found[1].remedy or "")


def test_the_reason_of_a_database_that_failed_is_in_the_databases_words() -> None:
    failure = StorageFailed()
    failure.__cause__ = ValueError("database disk image is malformed")

    assert reason(failure) == "database disk image is malformed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (amounts.size(0), "0 bytes"), (amounts.size(1_023), "1023 bytes"), (amounts.size(1_536), "1.5 kB"),
        (amounts.size(64 * MEGABYTE), "64 MB"), (amounts.size(2.14 * GIGABYTE), "2.1 GB"),
        (amounts.span(119), "119 s"), (amounts.span(120), "2 min"), (amounts.span(7_199), "120 min"),
        (amounts.span(7_200), "2 h"), (amounts.span(172_800), "2 days"),
        (amounts.count(1, "task"), "1 task"), (amounts.count(0, "task"), "0 tasks"),
    ],
)  # fmt: skip
def test_amounts_are_written_to_be_read_at_a_glance(text: str, expected: str) -> None:
    assert text == expected


# Settings ------------------------------------------------------------------------------------------------------------


def test_of_bad_settings_those_that_are_good_are_looked_further_with(tmp_path: Path) -> None:
    environ = environment(tmp_path, PORT="high", WORKER_LEASE_SECONDS="7", DB_PATH="x/cabinet.db", APP_ENV="staging")

    read = configuration.read(environ, tmp_path)

    assert [fault.split()[0] for fault in read.faults] == ["APP_ENV", "PORT"]
    assert read.unusable == {"port", "app_env"}
    assert read.settings.worker_lease_seconds == 7
    assert read.settings.db_path == tmp_path / "x" / "cabinet.db"
    assert read.settings.app_env == "prod"


def test_each_fault_of_the_settings_has_its_remedy(tmp_path: Path) -> None:
    environ = environment(tmp_path, PORT="high", DB_PTH="x", TOKEN_SECRET="")

    found = list(configuration.examine_settings(configuration.read(environ, tmp_path)))

    faults = {finding.says: finding.remedy or "" for finding in found if finding.level is FAULT}
    assert faults["PORT is 'high'"].startswith("Give ")
    assert faults["DB_PTH in the environment is not a setting"] == "Did you mean DB_PATH? Rename it."
    assert faults["TOKEN_SECRET is missing, so nobody could authenticate"].startswith("Make one with: ")


def test_a_setting_that_is_a_fault_is_no_note_too(tmp_path: Path) -> None:
    environ = environment(tmp_path, APP_ENV="prod")

    found = list(configuration.examine_settings(configuration.read(environ, tmp_path)))

    about = [finding.level for finding in found if "lies under a temporary folder" in finding.says]
    assert set(about) == {FAULT}


def test_a_secret_is_in_no_finding(tmp_path: Path) -> None:
    environ = environment(tmp_path, TOKEN_SECRET="hush-hush", TOKEN_SECRET_PREVIOUS="hush-hush-too")

    found = list(Examination(environ=environ, folder=tmp_path, clock=HandClock()).findings())

    assert any("TOKEN_SECRET" in finding.says for finding in found)
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("place", "words"),
    [("tests.support.pipelines:nothing", "cannot be imported: AttributeError"), ("nowhere:x", "ModuleNotFoundError"),
     ("tests.support.pipelines:ROOT", "cannot be imported"), ("leaving:x", "ends the process when imported")],
)  # fmt: skip
def test_a_pipeline_that_cannot_be_had_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: str
) -> None:
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))

    pipeline, found = configuration.import_pipeline(place)

    assert pipeline is None
    assert found.level is FAULT
    assert words in found.says


def test_what_a_pipeline_prints_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chatty.py").write_text("print('hello')\nfrom tests.support.pipelines import quiet")
    monkeypatch.syspath_prepend(str(tmp_path))

    pipeline, found = configuration.import_pipeline("chatty:quiet")

    assert pipeline is not None
    assert found.says == "chatty:quiet has the stages parse, photos, publish, export, cleanup"
    assert capsys.readouterr() == ("", "hello\n")


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(run: Run, tmp_path: Path) -> Path:
    """A database that has its schema and one user."""
    assert run("migrate").exit_code == 0
    added = run("admin", "users", "add", "alice")
    assert added.exit_code == 0, added.output
    return tmp_path / "cabinet.db"


def told(result: Result) -> list[Finding]:
    """Read what `--json` printed."""
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["exit_code"] == result.exit_code
    return [Finding(Check(one["check"]), Level(one["level"]), one["says"], one["remedy"]) for one in found["findings"]]


def of(check: Check, result: Result) -> list[Finding]:
    """Return what one check found."""
    return [finding for finding in told(result) if finding.check is check]


def alter(path: Path, *statements: str) -> None:
    """Do something to a database past its rules."""
    with closing(connect(path)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            raw.execute(statement).fetchall()


def trace_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of every file but the log's index, which every reader writes."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith("-shm")
    }


def test_a_healthy_database_has_no_fault_and_every_check_is_shown(run: Run, database: Path) -> None:
    result = run("admin", "doctor", "--json")

    found = told(result)
    assert result.exit_code == 0
    assert {finding.check for finding in found} == set(Check)
    assert {finding.level for finding in found} <= {OK, NOTE}
    assert all((finding.remedy is None) is (finding.level is OK) for finding in found)


def test_for_people_every_finding_is_a_line_and_its_remedy_the_next(run: Run, database: Path) -> None:
    found = told(run("admin", "doctor", "--json", "--quick"))

    result = run("admin", "doctor", "--quick")

    lines = result.stdout.splitlines()
    first = lines[0].index("no fault")
    assert lines[0] == f"ok       settings      {found[0].says}"
    assert lines[1].startswith("note     settings      APP_ENV is test")
    assert lines[2] == " " * first + "Nothing to do if that is meant; otherwise change the setting."
    assert len(lines) == sum(1 if finding.remedy is None else 2 for finding in found) + 2
    assert lines[-1] == f"No fault: {levels(found).count(NOTE)} notes, {levels(found).count(OK)} ok."
    assert "\x1b" not in result.stdout


def test_a_terminal_gets_colours(run: Run, database: Path) -> None:
    result = CliRunner().invoke(cabinet, ["admin", "doctor"], prog_name="cabinet", color=True)

    assert result.stdout.startswith(click.style("ok     ", fg="green"))


@pytest.mark.parametrize("is_there", [True, False])
def test_nothing_changes_and_nothing_is_made(run: Run, database: Path, is_there: bool) -> None:
    if not is_there:
        database.unlink()
    before = trace_of(database.parent)

    result = run("admin", "doctor")

    assert result.exit_code == 0
    assert trace_of(database.parent) == before


def test_what_a_crashed_process_left_stays_as_it_is(run: Run, database: Path, tmp_path: Path) -> None:
    living = tmp_path / "living.db"
    shutil.copy(database, living)
    with closing(connect(living)) as raw:
        raw.execute("PRAGMA journal_mode = WAL").fetchall()
        raw.execute("UPDATE users SET subject = 'bob'")
        shutil.copy(log_of(living), log_of(database))
    before = trace_of(database.parent)

    result = run("admin", "doctor", "--json")

    assert only(of(Check.INTEGRITY, result)).level is OK
    assert only(of(Check.LOG_SIZE, result)).says.startswith("8.1 kB in the log")
    assert trace_of(database.parent) == before


def test_a_serving_process_is_told_by_its_pid(run: Run, database: Path) -> None:
    with own(database):
        found = of(Check.SERVICE, run("admin", "doctor", "--json"))

    assert found[0].says == f"process {os.getpid()} serves this database"


def test_a_missing_database_that_the_next_start_would_make_is_a_warning(run: Run) -> None:
    result = run("admin", "doctor", "--json")

    assert result.exit_code == 0
    assert only(of(Check.MIGRATIONS, result)).level is WARNING
    assert "not looked at: log size, integrity, clock" in of(Check.LOG_SIZE, result)[0].says


def test_a_missing_database_in_prod_is_4(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.settings_checks.temporary_folders", tuple)  # the test's own folder is one

    result = run("admin", "doctor", "--json", APP_ENV="prod")

    found = only(of(Check.MIGRATIONS, result))
    assert result.exit_code == 4
    assert found.level is FAULT
    assert (found.remedy or "").endswith("cabinet migrate")


@pytest.mark.parametrize(
    ("statement", "words", "remedy"),
    [
        ("DELETE FROM schema_migrations WHERE version = 3", "the database is behind this version", "cabinet migrate"),
        ("UPDATE schema_migrations SET version = 99 WHERE version = 3", "the database is ahead", "Start the newer"),
        ("UPDATE schema_migrations SET checksum = 'x'", "was applied from a file that has changed", "append-only"),
    ],
)
def test_a_schema_that_is_not_this_versions_is_4_and_the_work_is_not_looked_at(
    run: Run, database: Path, statement: str, words: str, remedy: str
) -> None:
    alter(database, statement)

    result = run("admin", "doctor", "--json")

    found = only(of(Check.MIGRATIONS, result))
    assert result.exit_code == 4
    assert found.level is FAULT
    assert words in found.says
    assert remedy in (found.remedy or "")
    assert only(of(Check.CLOCK, result)).says.startswith("not looked at: clock, workers, leases")
    assert of(Check.DEAD_LETTERS, result) == []


def test_a_file_that_is_no_database_is_1_and_every_other_check_goes_on(run: Run, database: Path) -> None:
    database.write_bytes(b"a letter to my aunt, which is long enough to be read" * 100)

    result = run("admin", "doctor", "--json")

    assert result.exit_code == 1
    assert all("file is not a database" in found.says for found in of(Check.INTEGRITY, result))
    assert all("cabinet admin restore" in (found.remedy or "") for found in of(Check.INTEGRITY, result))
    assert only(of(Check.DISK_SPACE, result)).level in (OK, WARNING)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE users SET role = 'king'", "CHECK constraint failed in users"),
        ("INSERT INTO outputs VALUES ('none', 'parse', '{}', 'then')", "a row of outputs names one of tasks"),
    ],
)
def test_a_broken_row_is_1_unless_nobody_looks(run: Run, database: Path, statement: str, words: str) -> None:
    alter(database, statement)

    result, quick = run("admin", "doctor", "--json"), run("admin", "doctor", "--json", "--quick")

    assert (result.exit_code, quick.exit_code) == (1, 0)
    assert words in only(of(Check.INTEGRITY, result)).says
    assert only(of(Check.INTEGRITY, quick)).says == "not looked at (--quick)"


@pytest.mark.parametrize("page", range(1, 12))
def test_nonsense_anywhere_in_the_file_is_never_a_traceback(run: Run, database: Path, page: int) -> None:
    with database.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)

    result = run("admin", "doctor", "--json")

    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert FAULT in levels(of(Check.INTEGRITY, result))


def test_a_database_that_somebody_locks_is_not_taken_for_a_broken_one(
    run: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.inspection.BUSY_SECONDS", 0.01)
    with closing(connect(database)) as raw:
        raw.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        raw.execute("BEGIN EXCLUSIVE")

        result = run("admin", "doctor", "--json")

    found = of(Check.INTEGRITY, result)
    assert result.exit_code == 1
    assert all("database is locked" in finding.says for finding in found)
    assert all((finding.remedy or "").startswith("Another program holds it.") for finding in found)


@pytest.mark.parametrize(
    ("code", "words"),
    [(5, "Another program"), (8, "as the user that runs"), (14, "as the user that runs"), (10, "dmesg"),
     (11, "cabinet admin restore"), (26, "cabinet admin restore"), (1, "Mend what is named"), (267, "admin restore")],
)  # fmt: skip
def test_what_to_do_follows_from_why_the_database_cannot_be_read(code: int, words: str) -> None:
    failure = StorageFailed()
    failure.__cause__ = driver_error(code)

    assert words in contents.mend(DATABASE, driver_error(code))
    assert words in contents.mend(DATABASE, failure)


def test_the_last_line_names_what_is_wrong(run: Run, database: Path) -> None:
    alter(
        database, "UPDATE users SET role = 'king'", "INSERT INTO probes VALUES ('write', '9027-01-01T00:00:00.000000Z')"
    )

    result = run("admin", "doctor")

    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("Something is wrong with integrity, clock: 2 faults, ")


def test_bad_settings_are_3_beside_the_checks_that_are_possible(run: Run, database: Path) -> None:
    result = run("admin", "doctor", "--json", PORT="high", PIPELINE="nowhere:x")

    found = told(result)
    assert result.exit_code == 3
    assert [finding.check for finding in found if finding.level is FAULT] == [Check.SETTINGS, Check.PIPELINE]
    assert only(of(Check.INTEGRITY, result)).level is OK
    assert only(of(Check.WORKERS, result)).level is OK


def test_in_memory_there_is_no_database_to_look_at(run: Run, tmp_path: Path) -> None:
    result = run("admin", "doctor", "--json", USE_SQLITE="false")

    assert result.exit_code == 0
    assert "out of reach" in of(Check.SERVICE, result)[0].says
    assert not (tmp_path / "cabinet.db").exists()


def test_without_a_usable_path_no_other_database_is_looked_at(run: Run) -> None:
    result = run("admin", "doctor", "--json", DB_PATH="a\tb")

    assert result.exit_code == 3
    assert of(Check.INTEGRITY, result) == []
    assert only(of(Check.SERVICE, result)).says == "no database is looked at"


def test_a_full_disk_that_reads_as_a_broken_one_is_told_as_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0))

    assert contents.mend(DATABASE, driver_error(10)).startswith("The disk of /srv/cabinet is full")


def test_a_place_out_of_reach_is_a_finding(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = run("admin", "doctor", "--json", DB_PATH=str(tmp_path / "file" / "cabinet.db"))

    assert result.exit_code == 3
    assert any("Not a directory" in finding.says for finding in told(result))


@pytest.mark.parametrize("trace", [".cabinet.db.restoring", "cabinet.db-wal"])
def test_what_an_interrupted_restore_left_is_a_fault_where_there_is_no_database(
    run: Run, database: Path, trace: str
) -> None:
    database.rename(database.with_name(trace))

    result = run("admin", "doctor", "--json")

    assert result.exit_code == 1
    assert only(of(Check.RESTORE, result)).level is FAULT
    assert of(Check.MIGRATIONS, result) == []


def test_what_an_interrupted_restore_left_beside_the_database_is_a_warning(run: Run, database: Path) -> None:
    shutil.copy(database, database.with_name(".cabinet.db.restoring"))

    result = run("admin", "doctor", "--json")

    assert result.exit_code == 0
    assert only(of(Check.RESTORE, result)).level is WARNING


def test_while_a_restore_is_under_way_the_database_is_left_alone(run: Run, database: Path) -> None:
    with own(database), ownership.alone(database):
        database.rename(database.with_name(".cabinet.db.restoring"))

        result = run("admin", "doctor", "--json")

    assert result.exit_code == 0
    assert of(Check.SERVICE, result)[0].says == f"process {os.getpid()} is restoring this database"
    assert only(of(Check.RESTORE, result)).says == "one is under way"
    assert of(Check.INTEGRITY, result) == []


def test_what_users_have_written_has_no_power_over_the_terminal(run: Run, database: Path) -> None:
    alter(
        database,
        "INSERT INTO pauses SELECT 'parse', 'wait' || char(27) || '[2J', id, '2026-11-22T20:19:00.000000Z' FROM users",
    )

    result = run("admin", "doctor")

    assert "stage parse has been paused by alice since 2026-11-22T20:19:00Z: wait?[2J" in result.stdout


def test_files_that_others_may_read_are_told_with_the_command_that_mends_it(run: Run, database: Path) -> None:
    database.chmod(0o644)
    (database.parent / ".env").write_text("LOG_LEVEL=info")
    (database.parent / ".env").chmod(0o644)

    result = run("admin", "doctor", "--json")

    assert only(of(Check.RIGHTS, result)).remedy == f"Run: chmod 600 {database}"
    assert only(of(Check.SECRETS, result)).remedy == f"Run: chmod o-rwx {database.parent / '.env'}"


def test_a_clock_that_stands_before_the_database_is_found_by_the_whole_examination(
    run: Run, database: Path, tmp_path: Path
) -> None:
    alter(database, "INSERT INTO probes VALUES ('write', '2027-01-01T00:00:00.000000Z')")
    environ = environment(database.parent)

    found = list(Examination(environ=environ, folder=database.parent, clock=HandClock()).findings())

    clock = only([finding for finding in found if finding.check is Check.CLOCK])
    assert clock.level is FAULT
    assert "the last sign of a serving process is from 39 days later" in clock.says


def test_the_help_states_the_exit_codes(run: Run) -> None:
    result = run("admin", "doctor", "--help")

    assert result.exit_code == 0
    codes = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("    ")]
    assert codes == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("arguments", [["--loud"], ["now"]])
def test_wrong_use_is_2(run: Run, arguments: list[str]) -> None:
    assert run("admin", "doctor", *arguments).exit_code == 2
