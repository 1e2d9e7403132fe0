"""The forms that the texts of settings take; a text in another form raises ValueError with the rest of a sentence."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

SECRET_BYTES = 32
SHOWN_LENGTH = 120

KEY_HOURS = 24
"""How long an idempotency key is kept at the least."""

PORT_LIMIT = 65_535

_UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600}
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|sec|min|h|hour)", re.ASCII)
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
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
Attribute = Annotated[str, _matching(_ATTRIBUTE, "write module:attribute, such as shop.tasks:pipeline")]


def shown(given: object) -> str:
    """Quote a value on one line, cut to a bearable length."""
    text = repr(given)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
