"""A listing: what the caller sends (Listing), and what every stage after parse works with (Item)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.pipelines import Context

Sentence = Annotated[str, Field(max_length=200)]
Paragraph = Annotated[str, Field(max_length=2_000)]
Offset = Annotated[int, Field(ge=0, le=100_000)]
Length = Annotated[int, Field(ge=1, le=100_000)]


class _Strict(BaseModel):
    """No unknown fields, no silent conversions, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Picture(_Strict):
    """A file of the example's data folder, and to whom the world owes it."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,59}\.(jpg|png)$")]
    title: Sentence
    about: Paragraph
    credit: Sentence
    licence: Sentence
    source: Annotated[str, Field(pattern=r"^https?://[!-~]+$", max_length=500)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Crop(_Strict):
    """A rectangle in pixels of the upright picture, from its upper left corner."""

    left: Offset
    top: Offset
    width: Length
    height: Length

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, as Pillow wants them."""
        return self.left, self.top, self.left + self.width, self.top + self.height


class Listing(_Strict):
    """The payload of a task. It fits when shapes and lengths do; whether it makes sense is for parse to say."""

    stock_number: Annotated[str, Field(pattern=r"^[A-Z]{3}-[0-9]{3}$")]
    title: Sentence
    description: Paragraph
    price: Annotated[str, Field(max_length=40)]
    picture: Picture
    crop: Crop


class Item(_Strict):
    """A listing that makes sense: texts tidied, the price a number, the picture there, the crop inside of it."""

    stock_number: str
    slug: str
    title: str
    description: str
    price_cents: int
    picture: Picture
    crop: Crop

    @property
    def price(self) -> str:
        """The price in euros with two decimals, without a sign."""
        return f"{self.price_cents // 100}.{self.price_cents % 100:02}"

    @property
    def archive(self) -> str:
        """The name of the item's ZIP file."""
        return f"{self.slug}.zip"


def item_of(context: Context) -> Item:
    """Return the item that parse handed on."""
    return Item.model_validate(context.outputs["parse"]["item"])
