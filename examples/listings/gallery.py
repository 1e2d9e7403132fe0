"""The gallery: one page over all published items, made from the card that each of them has left in its folder."""

from collections.abc import Iterable
from itertools import groupby
from string import Template
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from examples.listings.listing import Item
from examples.listings.pages import Html, fill, load, style_sheet

CARD_HEIGHT = 270
"""About how high a card's photo is shown, in CSS pixels; the browser chooses the photo's size by it."""


class Photo(BaseModel):
    """One size of an item's photo; `file` lies in the item's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    width: int
    height: int


class Card(BaseModel):
    """What the gallery knows of one item. `folder` is the name of the item's folder beside the gallery."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    item: Item
    photos: Annotated[tuple[Photo, ...], Field(min_length=1)]


def gallery(cards: Iterable[Card]) -> str:
    """Return the index page: a section for each picture, the one with the most prints first."""
    groups = _by_picture(cards)
    section, card_template, link = load("section.html"), load("card.html"), load("link.html")
    return fill(
        load("index.html"),
        style=style_sheet(),
        count=_counted(sum(map(len, groups)), "print"),
        pictures=_counted(len(groups), "picture"),
        links=_joined(fill(link, anchor=anchor(group[0].item), title=group[0].item.picture.title) for group in groups),
        sections=_joined(_section(section, card_template, group) for group in groups),
    )


def anchor(item: Item) -> str:
    """Return the name of the picture's section in the gallery."""
    return item.picture.file.rsplit(".", 1)[0]


def source_set(photos: Iterable[Photo], prefix: str = "") -> str:
    """Return the photos as the value of an img element's srcset."""
    return ", ".join(f"{prefix}{photo.file} {photo.width}w" for photo in photos)


def _by_picture(cards: Iterable[Card]) -> list[list[Card]]:
    """Group the cards: the largest group first, each in the order of stock numbers."""
    ordered = sorted(cards, key=lambda card: (card.item.picture.file, card.item.stock_number, card.folder))
    groups = [list(group) for _, group in groupby(ordered, key=lambda card: card.item.picture.file)]
    return sorted(groups, key=len, reverse=True)


def _section(section: Template, card_template: Template, cards: list[Card]) -> Html:
    item = cards[0].item
    return fill(
        section,
        anchor=anchor(item),
        title=item.picture.title,
        about=item.picture.about,
        credit=item.picture.credit,
        licence=item.picture.licence,
        cards=_joined(_card(card_template, card) for card in cards),
    )


def _card(template: Template, card: Card) -> Html:
    largest = card.photos[-1]
    ratio = largest.width / largest.height
    return fill(
        template,
        folder=card.folder,
        title=card.item.title,
        price=card.item.price,
        description=card.item.description,
        photo=f"{card.folder}/{card.photos[0].file}",
        source_set=source_set(card.photos, f"{card.folder}/"),
        display_width=round(ratio * CARD_HEIGHT),
        ratio=f"{ratio:.3f}",
        width=largest.width,
        height=largest.height,
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _joined(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))
