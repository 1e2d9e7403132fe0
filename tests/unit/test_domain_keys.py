"""Public keys: which are taken, which are not, and what people compare. The curve is computed anew here."""

import base64
import hashlib
import itertools
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.domain.keys import SigningKey, check_public_key, fingerprint
from tests.support.clocks import HandClock
from tests.support.signers import public_text

PRIME = 2**255 - 19
CURVE = -121665 * pow(121666, -1, PRIME) % PRIME
ORDER = 2**252 + 27742317777372353535851937790883648493
SIGN = 1 << 255
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    """Add two points of the twisted Edwards curve (RFC 8032 §5.1)."""
    (x1, y1), (x2, y2) = one, other
    product = CURVE * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def times(number: int, point: Point) -> Point:
    """Add a point to itself."""
    found = NEUTRAL
    while number:
        if number & 1:
            found = add(found, point)
        point, number = add(point, point), number >> 1
    return found


def point_at(y: int) -> Point | None:
    """Return the point of even x at a height, if the curve has one (RFC 8032 §5.1.3)."""
    square = (y * y - 1) * pow(CURVE * y * y + 1, -1, PRIME) % PRIME
    root = pow(square, (PRIME + 3) // 8, PRIME)
    if root * root % PRIME != square:
        root = root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    if root * root % PRIME != square:
        return None
    return (PRIME - root if root & 1 else root), y


def low_order_points() -> set[Point]:
    """Return the points of order 1, 2, 4 and 8: what is left of any point after so many times the prime order."""
    found = {NEUTRAL}
    for y in itertools.count(2):
        point = point_at(y)
        if point is not None:
            small = times(ORDER, point)
            found |= {times(number, small) for number in range(8)}
        if len(found) == 8:
            return found
    raise AssertionError


def text(number: int) -> str:
    """Write the 32 bytes of a number as Cabinet takes them."""
    return base64.b64encode(number.to_bytes(32, "little")).decode()


def written(y: int) -> list[str]:
    """Return every way to write a height: both signs of x, and the one that is not reduced, if it fits."""
    heights = [y, y + PRIME] if y + PRIME < SIGN else [y]
    return [text(height | sign) for height in heights for sign in (0, SIGN)]


LOW_ORDER = sorted({line for _, y in low_order_points() for line in written(y)})


def test_there_are_eight_points_of_low_order_and_fourteen_ways_to_write_them() -> None:
    assert len(low_order_points()) == 8
    assert all(times(8, point) == NEUTRAL for point in low_order_points())
    assert len(LOW_ORDER) == 14


@pytest.mark.parametrize("key", LOW_ORDER)
def test_a_key_for_which_anybody_can_sign_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="anybody can make signatures"):
        check_public_key(key)


def test_for_such_a_key_one_signature_fits_all_that_is_said() -> None:
    neutral = text(1)
    forged = base64.b64decode(neutral) + bytes(32)

    for said in (b"one thing", b"and another"):
        Ed25519PublicKey.from_public_bytes(base64.b64decode(neutral)).verify(forged, said)


@pytest.mark.parametrize("y", range(PRIME, SIGN))
def test_a_height_that_is_not_reduced_is_refused(y: int) -> None:
    for key in (text(y), text(y | SIGN)):
        with pytest.raises(ValueError, match="make a new one"):
            check_public_key(key)


def test_keys_that_are_made_are_taken_as_they_are() -> None:
    keys = [public_text(Ed25519PrivateKey.generate()) for _ in range(50)]

    assert [check_public_key(key) for key in keys] == keys


def test_what_is_not_on_the_curve_is_refused() -> None:
    heights = range(2, 200)
    off = [y for y in heights if point_at(y) is None]
    on = [y for y in heights if point_at(y) is not None]

    assert [check_public_key(text(y)) for y in on] == [text(y) for y in on]
    assert len(off) > 50
    for y in off:
        with pytest.raises(ValueError, match="no Ed25519 public key"):
            check_public_key(text(y))


GOOD = public_text(Ed25519PrivateKey.from_private_bytes(b"k" * 32))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "key",
        "ü" * 44,
        GOOD.rstrip("="),
        GOOD + "=",
        f" {GOOD}",
        f"{GOOD}\n",
        GOOD[:20] + "\n" + GOOD[20:],
        base64.b64encode(b"k" * 31).decode(),
        base64.b64encode(b"k" * 33).decode(),
        base64.b64encode(bytes(range(64))).decode(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        base64.b64decode(GOOD).hex(),
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB5shjDh1wUHhrD/o2uvxMq28P9KITj1GyQGJ/nPtwvb a@b",
        "-----BEGIN PUBLIC KEY-----",
        bytes(range(32)).hex(),
        GOOD[:42] + {"A": "B"}.get(GOOD[42], chr(ord(GOOD[42]) + 1)) + "=",
    ],
)
def test_another_way_to_write_a_key_is_told_what_to_send(given: str) -> None:
    assert check_public_key(GOOD) == GOOD

    with pytest.raises(ValueError, match="send the 32 bytes of an Ed25519 public key in base64, 44 characters"):
        check_public_key(given)


@pytest.mark.parametrize(
    ("key", "printed"),
    [
        ("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8"),
        ("PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=", "SHA256:F34nin7tcaYH6WR5LSWSfj6weFBPfBpuyUUoPFP9YjA"),
    ],
)
def test_a_fingerprint_is_what_ssh_keygen_prints(key: str, printed: str) -> None:
    line = Ed25519PublicKey.from_public_bytes(base64.b64decode(key)).public_bytes(
        Encoding.OpenSSH, PublicFormat.OpenSSH
    )
    digest = hashlib.sha256(base64.b64decode(line.split(b" ")[1])).digest()
    fields: dict[str, Any] = {"id": "i", "user_id": "u", "subject": "s", "name": "n", "revoked_at": None}

    assert fingerprint(key) == printed == f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
    assert SigningKey(public_key=key, created_at=HandClock().now(), **fields).fingerprint == printed
