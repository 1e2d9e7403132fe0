"""The parse stage: a listing that makes sense becomes an item; any other is refused for good, with the reason."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from app.pipelines import Context, Fail
from examples.listings.listing import Crop, Item, Listing, Picture
from examples.listings.pictures import measure, read_picture

ACCEPTED_LICENCES = frozenset({"CC0", "Public domain", "No known copyright restrictions"})
SMALLEST_SIDE_PIXELS = 64
SLUG_LENGTH = 60

_PRICE = re.compile(r"(?:EUR )?([0-9]{1,6})(?:[.,]([0-9]{2}))?(?: EUR)?")


def parse(context: Context) -> Mapping[str, Any]:
    """Validate and normalise; hand on the item. Writes no file."""
    item = to_item(context.payload)
    content = read_picture(item.picture)
    check_crop(item.crop, measure(content))
    return {"item": item.model_dump(), "files": {}}


def to_item(listing: Listing) -> Item:
    """Return the listing normalised; Fail if a text is empty, the price no number or the licence not accepted."""
    picture = _tidy_picture(listing.picture)
    title = tidy(listing.title, "title")
    return Item(
        stock_number=listing.stock_number,
        slug=slug(f"{listing.stock_number} {picture.title} {title}"),
        title=title,
        description=tidy(listing.description, "description"),
        price_cents=price_in_cents(listing.price),
        picture=picture,
        crop=listing.crop,
    )


def tidy(text: str, name: str) -> str:
    """Return the text with runs of white space and unprintable characters as one space each; Fail if none is left."""
    tidied = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if not tidied:
        raise Fail("text_empty", f"The {name} is empty; say something.")
    return tidied


def price_in_cents(price: str) -> int:
    """Return euro cents from texts like '18', '18.50', '18,50' or 'EUR 18.50'; Fail on any other."""
    match = _PRICE.fullmatch(" ".join(price.split()))
    if match is None:
        raise Fail("price_unreadable", f"{price!r} is not a price; write euros like 18.50.")
    return int(match[1]) * 100 + int(match[2] or 0)


def slug(text: str) -> str:
    """Return the text in lowercase ASCII words joined by hyphens, fit for a file name; never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG_LENGTH].strip("-") or "item"


def check_crop(crop: Crop, size: tuple[int, int]) -> None:
    """Fail unless the crop lies inside of a picture of that width and height and is large enough to print."""
    _, _, right, bottom = crop.box
    if right > size[0] or bottom > size[1]:
        raise Fail("crop_outside_picture", f"The crop ends at {right}, {bottom}; the picture at {size[0]}, {size[1]}.")
    if min(crop.width, crop.height) < SMALLEST_SIDE_PIXELS:
        raise Fail("crop_too_small", f"Each side of the crop must have at least {SMALLEST_SIDE_PIXELS} pixels.")


def _tidy_picture(picture: Picture) -> Picture:
    if picture.licence not in ACCEPTED_LICENCES:
        raise Fail("licence_not_accepted", f"{picture.file}: the licence is {picture.licence!r}; find a free picture.")
    texts = {name: tidy(getattr(picture, name), f"picture's {name}") for name in ("title", "about", "credit")}
    return picture.model_copy(update=texts)
