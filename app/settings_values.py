"""The forms that the texts of settings take; a text in another form raises ValueError with the rest of a sentence."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

SECRET_BYTES = 32
SHOWN_LENGTH = 120

KEY_HOURS = 24
"""How long an idempotency key is kept at the least."""

PORT_LIMIT = 65_535

ISSUER_LENGTH = 200
"""How long an issuer may be, so that issuer and sub together are a subject."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that may be spoken to without TLS."""

_UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600}
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|sec|min|h|hour)", re.ASCII)
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_ISSUER = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._:@+|/-]*)?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_PRINTED = re.compile(r"[!-~]{1,500}")
_AUDIENCE = re.compile(r"[!-~]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}", re.ASCII)
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """So many requests in so many seconds."""

    count: int
    seconds: int

    def __str__(self) -> str:
        """Write it as the setting is written."""
        unit = {1: "s", 60: "min", 3600: "hour"}.get(self.seconds, f"{self.seconds}s")
        return f"{self.count}/{unit}"


def _rate(given: object) -> object:
    """Read `600/min`; `0` switches the limit off."""
    if given == "0" or not isinstance(given, str):
        return None if given == "0" else given
    if found := _RATE.fullmatch(given):
        return RateLimit(count=int(found[1]), seconds=_UNITS[found[2]])
    raise ValueError(f"is {shown(given)}; write such as 600/min (units: s, sec, min, h, hour), or 0 for none.")


def _port(given: object) -> object:
    """Read a port; 0 takes a free one."""
    if not isinstance(given, str):
        return given
    if not _PORT.fullmatch(given) or int(given) > PORT_LIMIT:
        raise ValueError(f"is {shown(given)}; give a whole number from 0 to {PORT_LIMIT}, or unset it.")
    return int(given)


def _networks(given: object) -> object:
    """Read addresses and networks, separated by commas."""
    return tuple(_network(part.strip()) for part in given.split(",")) if isinstance(given, str) else given


def _network(part: str) -> str:
    """Check an address or a network; one that trusts every address is refused (facts: 22)."""
    everything = "would believe an address that the caller has written; name the address or network of your proxy."
    if part == "*":
        raise ValueError(f"is '*' and {everything}")
    try:
        network = ipaddress.ip_network(part)
    except ValueError:
        raise ValueError(f"names {shown(part)}; give addresses or networks such as 10.0.0.5,10.1.0.0/16.") from None
    if network.prefixlen == 0:
        raise ValueError(f"names the whole address space {part} and {everything}")
    return str(network) if "/" in part else str(network.network_address)


def _origin(given: str) -> str:
    """Check an origin (RFC 6454); return it as a browser sends it: in lower case, without its scheme's own port."""
    found = _ORIGIN.fullmatch(given.lower())
    if not found or not 0 < int(found[3] or 1) <= PORT_LIMIT:
        raise ValueError("is not an origin; write scheme and host without a path, such as https://cabinet.example.com.")
    usual = {"http": 80, "https": 443}[found[1]]
    port = f":{int(found[3])}" if found[3] and int(found[3]) != usual else ""
    return f"{found[1]}://{found[2]}{port}"


def _issuer(given: str) -> str:
    """Check the issuer of an identity provider; it is kept as it is, because it is compared so."""
    if len(given) > ISSUER_LENGTH or not _ISSUER.fullmatch(given):
        raise ValueError(
            f"is {shown(given)}; write it as the provider does, https:// and host, port and path if it has them, "
            f"without ? and #, at most {ISSUER_LENGTH} characters."
        )
    return _over_tls(given)


def _keys_url(given: str) -> str:
    """Check where an identity provider's keys are fetched."""
    try:
        parts = urlsplit(given)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_complete = False
    if not (is_complete and _PRINTED.fullmatch(given)) or "@" in parts.netloc or "#" in given:
        raise ValueError("is not the address of a key set; write such as https://login.example.com/jwks, without #.")
    return _over_tls(given)


def _over_tls(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError(f"is {shown(url)}, where anybody on the way could put keys of their own; write https://.")
    return url


def _origins(given: object) -> object:
    """Read origins, separated by commas; one that is wrong is told by its place, because it may hold a password."""
    if not isinstance(given, str):
        return given
    return tuple(_listed_origin(place, part.strip()) for place, part in enumerate(given.split(","), start=1))


def _listed_origin(place: int, part: str) -> str:
    if part == "*":
        raise ValueError("names '*', which would let every page call; name the origins whose pages may.")
    try:
        return _origin(part)
    except ValueError as error:
        raise ValueError(f"has at place {place} what {error}") from None


def _long_enough(secret: SecretStr) -> SecretStr:
    try:
        length = len(secret.get_secret_value().encode())
    except UnicodeEncodeError:
        raise ValueError("is not text; write it in UTF-8.") from None
    if length < SECRET_BYTES:
        remedy = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'
        raise ValueError(f"is shorter than {SECRET_BYTES} bytes; {remedy}")
    return secret


def _matching(pattern: re.Pattern[str], remedy: str) -> AfterValidator:
    def check(given: str) -> str:
        if not pattern.fullmatch(given):
            raise ValueError(f"is {shown(given)}; {remedy}.")
        return given

    return AfterValidator(check)


def _a_day_at_least(hours: int) -> int:
    """Check how long a key is kept: its caller may try again for a day at least (design §5)."""
    if 0 < hours < KEY_HOURS:
        raise ValueError(
            f"is {hours}; callers may send again for {KEY_HOURS} hours, so give {KEY_HOURS} or more, or 0."
        )
    return hours


def _printable(path: Path) -> Path:
    if not str(path).isprintable():
        raise ValueError(f"is {shown(str(path))}; give a path without control characters.")
    return path


Place = Annotated[Path, AfterValidator(_printable)]
Rate = Annotated[RateLimit | None, NoDecode, BeforeValidator(_rate)]
Port = Annotated[int | None, BeforeValidator(_port)]
Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
KeyHours = Annotated[int, AfterValidator(_a_day_at_least)]
Host = Annotated[str, _matching(_HOST, "give an address such as 127.0.0.1 or ::, or a host name")]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_networks)]
Origin = Annotated[str, AfterValidator(_origin)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
Issuer = Annotated[str, AfterValidator(_issuer)]
Audience = Annotated[str, _matching(_AUDIENCE, "write what the provider puts into aud: 1 to 255 characters, no blanks")]
KeysUrl = Annotated[str, AfterValidator(_keys_url)]
Attribute = Annotated[str, _matching(_ATTRIBUTE, "write module:attribute, such as shop.tasks:pipeline")]


def shown(given: object) -> str:
    """Quote a value on one line, cut to a bearable length."""
    text = repr(given)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
