"""Signing: what an adapter knows our requests by, in the format of Standard Webhooks 1.0 (standardwebhooks.com)."""

import base64
import binascii
import hashlib
import hmac

KEY_BYTES_LEAST = 24
KEY_BYTES_MOST = 64
"""How long a key may be, by the specification's section on the signature scheme."""

_PREFIX = "whsec_"
_WANTED = (
    f"must be `{_PREFIX}` and then {KEY_BYTES_LEAST} to {KEY_BYTES_MOST} random bytes in padded base64; "
    f'make one with: echo "{_PREFIX}$(openssl rand -base64 32)"'
)


class Signer:
    """Signs with one secret and, while it is being replaced, with the previous one too: an adapter may know either.

    Raises ValueError, which never shows the secret, for one that is not well formed.
    """

    __slots__ = ("_keys",)

    def __init__(self, secret: str, previous_secret: str | None = None) -> None:
        self._keys = [_key("secret", secret)]
        if previous_secret is not None:
            self._keys.append(_key("previous_secret", previous_secret))

    def headers(self, message_id: str, body: bytes, *, sent_at: int) -> dict[str, str]:
        """Return the headers that name and sign a body.

        The id stays the same when a message is sent again; `sent_at`, in seconds since 1970, does not: receivers refuse
        what is more than five minutes off. Raises ValueError for an id with a full stop, which is what separates the
        parts that are signed.
        """
        if "." in message_id:
            raise ValueError("the id of a signed message has no full stop in it")
        signed = f"{message_id}.{sent_at}.".encode() + body
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": " ".join(_signature(key, signed) for key in self._keys),
        }


def _signature(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _key(argument: str, secret: object) -> bytes:
    if not isinstance(secret, str) or not secret.startswith(_PREFIX):
        raise ValueError(f"{argument} {_WANTED}")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{argument} {_WANTED}") from None
    if not KEY_BYTES_LEAST <= len(key) <= KEY_BYTES_MOST:
        raise ValueError(f"{argument} {_WANTED}; this one holds {len(key)}")
    return key
