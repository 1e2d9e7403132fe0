"""What the listings example leaves: pages that are safe and whole, archives, the catalogue, and nothing else."""

import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from examples.listings.catalogue import payload_of
from examples.listings.dry_run import Outputs, run_stage, run_until
from examples.listings.export import csv_line


class Elements(HTMLParser):
    """Collects start tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, tag: str, attribute: str) -> list[str]:
        return [
            attributes[attribute] or "" for name, attributes in self.found if name == tag and attribute in attributes
        ]


def test_hostile_texts_are_escaped_on_both_pages(tmp_path: Path) -> None:
    hostile = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>$title"
    picture = {**payload_of("HOR-001")["picture"], "title": hostile, "about": hostile, "credit": hostile}
    payload = {**payload_of("HOR-001"), "title": hostile, "description": hostile, "picture": picture}

    run_until(tmp_path / "task", payload)

    for page in (tmp_path / "index.html", tmp_path / "task" / "index.html"):
        html = page.read_text(encoding="utf-8")
        elements = Elements(html)
        assert "$title" in html
        assert not elements.values("img", "onerror")
        assert "script" not in {tag for tag, _ in elements.found}


def test_pages_load_nothing_from_another_host(tmp_path: Path) -> None:
    run_until(tmp_path / "task", payload_of("ROC-001"))

    for page in (tmp_path / "index.html", tmp_path / "task" / "index.html"):
        html = page.read_text(encoding="utf-8")
        elements = Elements(html)
        assert elements.values("img", "src")
        assert not elements.values("link", "href")
        assert "url(" not in html
        assert not any("//" in value for name in ("src", "srcset") for value in elements.values("img", name))


def test_every_link_and_photo_of_the_pages_leads_to_a_file(tmp_path: Path) -> None:
    run_until(tmp_path / "task", payload_of("COF-001"))

    for page in (tmp_path / "index.html", tmp_path / "task" / "index.html"):
        elements = Elements(page.read_text(encoding="utf-8"))
        sources = [entry.split()[0] for value in elements.values("img", "srcset") for entry in value.split(", ")]
        links = [link.partition("#")[0] for link in elements.values("a", "href") if not link.startswith(("http", "#"))]
        assert all((page.parent / name).is_file() for name in [*links, *sources, *elements.values("img", "src")])


def test_the_archive_holds_cut_photos_listing_and_licence(tmp_path: Path) -> None:
    run_until(tmp_path / "task", payload_of("CAM-003"))

    listing = json.loads(member(tmp_path / "task", "listing.json"))
    with Image.open(BytesIO(member(tmp_path / "task", "picture.png"))) as full:
        assert full.size == (182, 140)
    assert listing["stock_number"] == "CAM-003"
    assert b"Lav Varshney" in member(tmp_path / "task", "LICENCE.txt")
    assert member(tmp_path / "task", "photo-182.webp") == (tmp_path / "task" / "photo-182.webp").read_bytes()


def test_the_archive_names_no_moment_and_is_sorted(tmp_path: Path) -> None:
    run_until(tmp_path / "task", payload_of("CAM-003"))

    with ZipFile(next((tmp_path / "task").glob("*.zip"))) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_text_of_the_catalogue_is_a_formula_to_a_spreadsheet(text: str) -> None:
    assert csv_line((text,)) == f"'{text}\n".encode()


def test_cleanup_removes_working_files_and_keeps_results(tmp_path: Path) -> None:
    folder, payload = tmp_path / "task", payload_of("COI-006")
    outputs = run_until(folder, payload, "export")
    assert (folder / "work" / "cut.png").exists()

    run_stage(folder, payload, "cleanup", outputs)

    assert not (folder / "work").exists()
    assert {path.name for path in folder.iterdir()} == {Path(name).name for name in _recorded(outputs)}


def _recorded(outputs: Outputs) -> set[str]:
    return {name for stage in outputs.values() for name in stage["files"]}


def member(folder: Path, name: str) -> bytes:
    """Return the file of that name from the folder's only archive."""
    with ZipFile(next(folder.glob("*.zip"))) as archive:
        return archive.read(next(member for member in archive.namelist() if member.endswith(f"/{name}")))
