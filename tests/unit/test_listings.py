"""The listings example as a whole: its data, and its stages on all of them: twice, at once, and after crashes."""

import csv
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from app.pipelines import Fail
from examples.listings.catalogue import expected_dead_letters, payload_of, read_catalogue
from examples.listings.dry_run import Outputs, run_stage, run_until
from examples.listings.files import rebuild_shared
from examples.listings.pictures import PICTURES
from examples.listings.pipeline import pipeline

REPOSITORY = Path(__file__).parents[2]

_HOLD_THE_LOCK = """
import sys
from pathlib import Path
from examples.listings.files import rebuild_shared

def hold():
    print("locked", end="", flush=True)
    sys.stdin.read()

rebuild_shared(Path(sys.argv[1]), hold)
"""

# The data


def test_the_catalogue_has_at_least_sixty_rows_and_each_fits_the_payload_model() -> None:
    for payload in payloads():
        pipeline.check_payload(payload)

    assert len({row["reference"] for row in read_catalogue()}) == len(read_catalogue()) >= 60


def test_four_to_six_rows_are_known_to_fail_and_are_in_the_catalogue() -> None:
    assert 4 <= len(expected_dead_letters()) <= 6
    assert expected_dead_letters().keys() <= {row["reference"] for row in read_catalogue()}


def test_every_picture_is_listed_with_its_true_checksum_and_size() -> None:
    row = re.compile(r"\| (\S+) \| [^|]+ \| <\S+> \| ([^|]+) \| `([0-9a-f]{64})` \| (\d+) \|")
    listed = {name: (digest, int(size)) for name, _, digest, size in row.findall(_sources())}

    found = {
        path.name: (sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in PICTURES.iterdir()
        if path.suffix in {".png", ".jpg"}
    }

    assert listed == found


def test_every_picture_has_a_licence_that_lets_anybody_use_it() -> None:
    licences = {line.split("|")[4].strip() for line in _sources().splitlines() if re.match(r"\| \S+\.(png|jpg) ", line)}

    assert licences == {"CC0", "Public domain", "No known copyright restrictions"}


def test_every_checksum_that_the_catalogue_expects_is_stated_among_the_sources() -> None:
    for payload in payloads():
        assert payload["picture"]["sha256"] in _sources()


def test_the_data_are_small() -> None:
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 4_000_000


def test_every_detail_of_the_catalogue_has_its_own_rectangle_and_title() -> None:
    details = [(payload["picture"]["file"], *payload["crop"].values()) for payload in payloads()]
    titles = [(payload["picture"]["file"], payload["title"]) for payload in payloads()]

    assert len(set(details)) == len(details)
    assert len(set(titles)) == len(titles)


# The whole


def test_of_the_whole_catalogue_only_the_expected_rows_fail(tmp_path: Path) -> None:
    failed = {}
    for payload in payloads():
        try:
            run_until(tmp_path / payload["stock_number"], payload)
        except Fail as failure:
            failed[payload["stock_number"]] = failure.kind

    good = {row["reference"] for row in read_catalogue()} - failed.keys()
    assert failed == expected_dead_letters()
    assert _linked(tmp_path) == {f"{reference}/index.html" for reference in good}
    assert _catalogued(tmp_path) == sorted(good)


def test_every_file_that_a_stage_recorded_is_there_at_the_end_and_no_other(tmp_path: Path) -> None:
    outputs = run_until(tmp_path / "task", payload_of("COF-001"))

    recorded = {name: entry for stage in outputs.values() for name, entry in stage["files"].items()}
    found = {
        f"task/{name}": {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents(tmp_path / "task").items()
    }
    assert recorded == found
    assert sorted(recorded) == outputs["cleanup"]["kept"]


@pytest.mark.parametrize("stage", pipeline.names)
def test_a_stage_that_runs_twice_leaves_the_same_bytes_and_outputs(tmp_path: Path, stage: str) -> None:
    folder, payload = tmp_path / "task", payload_of("CHE-003")
    outputs = run_until(folder, payload, stage)
    before = contents(tmp_path)

    again = run_stage(folder, payload, stage, {name: outputs[name] for name in outputs if name != stage})

    assert again == outputs[stage]
    assert contents(tmp_path) == before


def test_two_tasks_with_the_same_payload_get_the_same_photos_and_archive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_until(tmp_path / name, payload_of("ROC-003"))

    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    same = {name for name in one if one[name] == two[name]}
    assert {"photo-112.webp", "index.html", next(name for name in one if name.endswith(".zip"))} <= same


@pytest.mark.parametrize("stage", ["photos", "publish", "export", "cleanup"])
def test_a_stage_gets_over_what_a_crashed_attempt_left_behind(tmp_path: Path, stage: str) -> None:
    payload, outputs = payload_of("HOR-002"), run_until(tmp_path / "calm", payload_of("HOR-002"))
    folder = tmp_path / "crashed"
    early: Outputs = {}
    for name in pipeline.names[: pipeline.names.index(stage)]:
        early[name] = run_stage(folder, payload, name, early)
    (folder / ".photo-165.webp.0123456789abcdef.part").write_bytes(b"half")
    (tmp_path / ".index.html.part").write_bytes(b"half")
    (tmp_path / ".catalogue.csv.part").write_bytes(b"half")

    for name in pipeline.names[pipeline.names.index(stage) :]:
        early[name] = run_stage(folder, payload, name, early)

    assert contents(folder).keys() == contents(tmp_path / "calm").keys()
    assert early["photos"]["photos"] == outputs["photos"]["photos"]


def test_export_makes_the_full_size_cut_again_if_it_is_gone(tmp_path: Path) -> None:
    folder, payload = tmp_path / "task", payload_of("CEL-002")
    outputs = run_until(folder, payload)

    again = run_stage(folder, payload, "export", outputs)

    assert again == outputs["export"]


def test_the_gallery_is_complete_after_eight_threads_publish_at_once(tmp_path: Path) -> None:
    folders = {f"task-{number:02}": payload_of("HOR-002") for number in range(32)}
    outputs = {name: run_until(tmp_path / name, payload, "photos") for name, payload in folders.items()}

    with ThreadPoolExecutor(8) as threads:
        jobs = [
            threads.submit(run_stage, tmp_path / name, payload, stage, outputs[name])
            for stage in ("publish", "export")
            for name, payload in folders.items()
        ]
    for job in jobs:
        job.result()

    assert _linked(tmp_path) == {f"{name}/index.html" for name in folders}
    assert len(_catalogued(tmp_path)) == 32
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_a_rebuild_that_fails_leaves_the_older_file_and_frees_the_lock(tmp_path: Path) -> None:
    target = tmp_path / "index.html"
    rebuild_shared(target, lambda: b"old")

    with pytest.raises(ZeroDivisionError):
        rebuild_shared(target, lambda: bytes(1 // 0))

    assert target.read_bytes() == b"old"
    rebuild_shared(target, lambda: b"new")
    assert target.read_bytes() == b"new"


def test_a_process_killed_under_the_lock_stops_nobody(tmp_path: Path) -> None:
    target = tmp_path / "index.html"
    command = [sys.executable, "-c", _HOLD_THE_LOCK, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(6) == b"locked"
        holder.kill()

    rebuild_shared(target, lambda: b"new")

    assert target.read_bytes() == b"new"


def payloads() -> list[dict[str, Any]]:
    return [row["payload"] for row in read_catalogue()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _linked(folder: Path) -> set[str]:
    return set(re.findall(r'<a class="card"[^>]* href="([^"]+)"', (folder / "index.html").read_text(encoding="utf-8")))


def _catalogued(folder: Path) -> list[str]:
    rows = csv.DictReader(StringIO((folder / "catalogue.csv").read_text(encoding="utf-8")))
    return [row["stock_number"] for row in rows]


def _sources() -> str:
    return (PICTURES / "SOURCES.md").read_text(encoding="utf-8")
