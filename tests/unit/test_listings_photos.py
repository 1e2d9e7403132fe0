"""The photos stage of the listings example: sizes, upright cuts, true colours, and not a trace of metadata."""

from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from app.pipelines import Fail
from examples.listings.catalogue import payload_of
from examples.listings.dry_run import run_until
from examples.listings.listing import Crop
from examples.listings.photos import widths_for
from examples.listings.pictures import PICTURES, cut, measure

METADATA_CHUNKS = (b"EXIF", b"XMP ", b"ICCP")


def test_photos_come_in_three_widths_and_are_never_enlarged(tmp_path: Path) -> None:
    large = run_until(tmp_path / "large", payload_of("RET-001"), "photos")["photos"]["photos"]
    small = run_until(tmp_path / "small", payload_of("COI-006"), "photos")["photos"]["photos"]

    assert [photo["width"] for photo in large] == [240, 480, 960]
    assert small == [{"file": "photo-80.webp", "width": 80, "height": 72}]
    for photo in large:
        with Image.open(tmp_path / "large" / photo["file"]) as image:
            assert (image.format, image.size) == ("WEBP", (photo["width"], photo["height"]))


@pytest.mark.parametrize(
    ("width", "expected"), [(1000, [240, 480, 960]), (480, [240, 480]), (300, [240, 300]), (64, [64])]
)
def test_no_width_is_made_twice_or_larger_than_the_cut(width: int, expected: list[int]) -> None:
    assert widths_for(width) == expected


@pytest.mark.parametrize("reference", ["HUB-001", "CHE-001", "ROC-001", "IHC-001", "HOR-001"])
def test_no_metadata_of_the_original_is_in_any_result(tmp_path: Path, reference: str) -> None:
    with Image.open(PICTURES / payload_of(reference)["picture"]["file"]) as original:
        assert original.info.keys() & {"exif", "xmp", "icc_profile", "comment"}

    run_until(tmp_path / "task", payload_of(reference))

    for path in (tmp_path / "task").glob("photo-*.webp"):
        content = path.read_bytes()
        assert not any(chunk in content for chunk in (*METADATA_CHUNKS, b"Photoshop", b"xmpmeta"))
        with Image.open(path) as photo:
            assert not photo.getexif()
            assert not photo.info.keys() & {"exif", "xmp", "icc_profile", "comment"}
    with Image.open(BytesIO(member(tmp_path / "task", "picture.png"))) as full:
        assert full.info == {}


def test_the_hubble_picture_really_says_how_it_was_edited() -> None:
    with Image.open(PICTURES / "hubble_deep_field.jpg") as original:
        assert "Adobe Photoshop" in str(original.getexif()[305])
        assert b"photoshop:History" in original.info["xmp"]


def test_colours_are_converted_from_the_profile_that_does_not_travel() -> None:
    content = (PICTURES / "rocket.jpg").read_bytes()
    crop = Crop(left=300, top=0, width=64, height=64)

    converted = cut(content, crop)

    with Image.open(BytesIO(content)) as original:
        assert converted.mode == "RGB"
        assert converted.tobytes() != original.crop(crop.box).tobytes()


def test_transparency_becomes_white(tmp_path: Path) -> None:
    corner = cut((PICTURES / "horse.png").read_bytes(), Crop(left=0, top=0, width=64, height=64))

    assert corner.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_a_picture_that_lies_on_its_side_is_measured_and_cut_upright() -> None:
    lying = Image.new("RGB", (200, 100), "white")
    lying.paste("black", (0, 0, 200, 50))
    orientation = Image.Exif()
    orientation[274] = 6
    buffer = BytesIO()
    lying.save(buffer, "JPEG", exif=orientation)

    size = measure(buffer.getvalue())
    right = cut(buffer.getvalue(), Crop(left=60, top=0, width=40, height=200))

    assert size == (100, 200)
    assert right.size == (40, 200)
    assert right.getpixel((20, 90)) == (0, 0, 0)


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"GIF89a" + b"\0" * 50])
def test_a_file_that_is_no_jpeg_or_png_is_unreadable(content: bytes) -> None:
    with pytest.raises(Fail) as caught:
        measure(content)

    assert caught.value.kind == "picture_unreadable"


def member(folder: Path, name: str) -> bytes:
    """Return the file of that name from the folder's only archive."""
    with ZipFile(next(folder.glob("*.zip"))) as archive:
        return archive.read(next(member for member in archive.namelist() if member.endswith(f"/{name}")))
