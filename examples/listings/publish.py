"""The publish stage: a page for the item, its card, and the gallery of all items made anew."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.pipelines import Context
from examples.listings.files import read_each, rebuild_shared, recorded, write_whole
from examples.listings.gallery import Card, anchor, gallery, source_set
from examples.listings.listing import item_of
from examples.listings.pages import fill, load, style_sheet

PAGE = "index.html"
CARD = "card.json"


def publish(context: Context) -> Mapping[str, Any]:
    """Write page and card, in this order, then the gallery: what the gallery links to is there."""
    card = Card(folder=context.folder.name, item=item_of(context), photos=context.outputs["photos"]["photos"])
    page = write_whole(context.folder / PAGE, page_of(card).encode())
    note = write_whole(context.folder / CARD, card.model_dump_json().encode())
    rebuild_gallery(context.folder.parent)
    return {"page": f"{context.folder.name}/{PAGE}", "files": recorded(context.folder, [page, note])}


def rebuild_gallery(folder: Path) -> None:
    """Make index.html in the folder of all tasks from the cards of those that have published."""
    rebuild_shared(folder / "index.html", lambda: _gallery_of(folder))


def page_of(card: Card) -> str:
    """Return the item's own page."""
    item, crop, largest = card.item, card.item.crop, card.photos[-1]
    texts = {name: getattr(item.picture, name) for name in ("credit", "licence", "source", "about")}
    return fill(
        load("item.html"),
        style=style_sheet(),
        anchor=anchor(item),
        title=item.title,
        picture_title=item.picture.title,
        description=item.description,
        price=item.price,
        stock_number=item.stock_number,
        archive=item.archive,
        size=f"{crop.width} by {crop.height} pixels, cut at {crop.left}, {crop.top}",
        photo=largest.file,
        source_set=source_set(card.photos),
        display_width=min(900, 2 * largest.width),
        width=largest.width,
        height=largest.height,
        **texts,
    )


def _gallery_of(folder: Path) -> bytes:
    return gallery(Card.model_validate_json(card) for card in read_each(folder, CARD)).encode()
