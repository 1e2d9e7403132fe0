"""Pictures: read only when they are the recorded ones, cut upright and in sRGB, with nothing in them but pixels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, ImageOps

from app.pipelines import Fail
from examples.listings.files import write_whole
from examples.listings.listing import Crop, Item, Picture

PICTURES = Path(__file__).parent / "data"
"""Where the pictures lie, unless LISTINGS_PICTURES names another folder."""

WORK = "work"
"""The folder inside a task's folder for what the next stages need and nobody afterwards."""


def read_picture(picture: Picture) -> bytes:
    """Return the picture's bytes; Fail if the file is not there or is not the one that was recorded."""
    folder = Path(os.environ.get("LISTINGS_PICTURES", PICTURES))
    try:
        content = (folder / picture.file).read_bytes()
    except FileNotFoundError:
        raise Fail("picture_missing", f"There is no picture {picture.file}; add it or correct the name.") from None
    if sha256(content).hexdigest() != picture.sha256:
        raise Fail("picture_changed", f"{picture.file} is not the recorded file: its SHA-256 differs.")
    return content


def measure(content: bytes) -> tuple[int, int]:
    """Return width and height of the upright picture, from its header alone."""
    with _opened(content) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if turned else image.size


def cut(content: bytes, crop: Crop) -> Image.Image:
    """Return the crop of the upright picture: RGB in sRGB, transparency on white, no metadata of any kind."""
    with _opened(content) as image:
        upright = ImageOps.exif_transpose(image).crop(crop.box)
        return _only_pixels(_in_srgb(upright))


def full_size_cut(folder: Path, item: Item) -> bytes:
    """Return the item's crop as a PNG, made at the first call and kept among the task's working files."""
    path = folder / WORK / "cut.png"
    if not path.exists():
        write_whole(path, encode(cut(read_picture(item.picture), item.crop), "PNG", compress_level=4))
    return path.read_bytes()


def encode(image: Image.Image, file_format: str, **options: int) -> bytes:
    """Return the image as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open a JPEG or PNG file. The bytes are in memory, so whatever goes wrong is the picture's own fault."""
    try:
        with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, ImageCms.PyCMSError) as error:
        raise Fail("picture_unreadable", f"The picture cannot be decoded: {error}.") from error


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert from the colour space of the embedded profile, which will not travel with the result."""
    profile = image.info.get("icc_profile")
    if profile is None or image.mode != "RGB":
        return image
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB")) or image


def _only_pixels(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, "white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas.paste(layer, mask=layer.getchannel("A"))
    else:
        canvas.paste(image.convert("RGB"))
    return canvas
