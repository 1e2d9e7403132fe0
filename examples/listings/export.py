"""The export stage: the item as a ZIP archive, its line of the catalogue, and the catalogue of all items made anew."""

import csv
import json
from collections.abc import Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from app.pipelines import Context
from examples.listings.files import read_each, rebuild_shared, recorded, write_whole
from examples.listings.listing import Item, item_of
from examples.listings.pictures import full_size_cut

ROW = "row.csv"
COLUMNS = ("stock_number", "title", "picture", "price_eur", "licence", "credit", "source", "width", "height", "archive")
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a ZIP file can name; the same in every archive, so that the same input gives the same bytes."""


def export(context: Context) -> Mapping[str, Any]:
    """Write archive and catalogue line, then the catalogue of all items."""
    item = item_of(context)
    packed = write_whole(context.folder / item.archive, archive(context, item))
    line = write_whole(context.folder / ROW, csv_line(_row(item, context.folder.name)))
    rebuild_catalogue(context.folder.parent)
    return {"archive": f"{context.folder.name}/{item.archive}", "files": recorded(context.folder, [packed, line])}


def rebuild_catalogue(folder: Path) -> None:
    """Make catalogue.csv in the folder of all tasks from the lines of those that have exported."""
    rebuild_shared(folder / "catalogue.csv", lambda: csv_line(COLUMNS) + b"".join(sorted(read_each(folder, ROW))))


def archive(context: Context, item: Item) -> bytes:
    """Return the ZIP file: the full-size cut, the photos, the listing as JSON, and credit and licence as text."""
    members = {
        "picture.png": full_size_cut(context.folder, item),
        "listing.json": json.dumps(item.model_dump(), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n",
        "LICENCE.txt": _licence(item).encode(),
    }
    for photo in context.outputs["photos"]["photos"]:
        members[photo["file"]] = (context.folder / photo["file"]).read_bytes()
    return zipped({f"{item.slug}/{name}": content for name, content in members.items()})


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a ZIP file, stored without compression and sorted by name, that depends on nothing but its members."""
    buffer = BytesIO()
    with ZipFile(buffer, "w") as target:
        for name, content in sorted(members.items()):
            entry = ZipInfo(name, EARLIEST)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            target.writestr(entry, content)
    return buffer.getvalue()


def csv_line(cells: tuple[str | int, ...]) -> bytes:
    """Return one line of CSV in which no text is a formula to a spreadsheet (OWASP, CSV injection)."""
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_inert(cell) for cell in cells])
    return buffer.getvalue().encode()


def _row(item: Item, folder: str) -> tuple[str | int, ...]:
    picture, crop = item.picture, item.crop
    work = (item.stock_number, item.title, picture.title, item.price, picture.licence, picture.credit, picture.source)
    return (*work, crop.width, crop.height, f"{folder}/{item.archive}")


def _inert(cell: str | int) -> str | int:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def _licence(item: Item) -> str:
    picture = item.picture
    return f"{picture.title}: {item.title}\nCredit: {picture.credit}\nLicence: {picture.licence}\n{picture.source}\n"
