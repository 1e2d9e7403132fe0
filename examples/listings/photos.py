"""The photos stage: the crop in up to three widths as WebP, with no metadata, never enlarged."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from app.pipelines import Context
from examples.listings.files import recorded, write_whole
from examples.listings.listing import item_of
from examples.listings.pictures import encode, full_size_cut

WIDTHS = (240, 480, 960)
QUALITY = 84


def photos(context: Context) -> Mapping[str, Any]:
    """Write photo-WIDTH.webp for each width; hand on their names and sizes, the smallest first."""
    with Image.open(BytesIO(full_size_cut(context.folder, item_of(context))), formats=("PNG",)) as cut:
        made = [_write(context.folder, cut, width) for width in widths_for(cut.width)]
    return {"photos": made, "files": recorded(context.folder, [context.folder / photo["file"] for photo in made])}


def widths_for(width: int) -> list[int]:
    """Return the widths to make of a picture that is so wide: none larger than itself, none twice."""
    return sorted({min(width, wanted) for wanted in WIDTHS})


def _write(folder: Path, cut: Image.Image, width: int) -> dict[str, Any]:
    height = max(1, round(cut.height * width / cut.width))
    photo = cut.resize((width, height), Image.Resampling.LANCZOS)
    path = write_whole(folder / f"photo-{width}.webp", encode(photo, "WEBP", quality=QUALITY, method=6))
    return {"file": path.name, "width": width, "height": height}
