"""Signing, held against the reference verifier of Standard Webhooks."""

import base64
import hashlib
import hmac
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.pipelines.signing import Signer

BODY = '{"type":"cabinet.stage","text":"à"}'.encode()


def secret_of(length: int, fill: bytes = b"k") -> str:
    return "whsec_" + base64.b64encode(fill * length).decode()


SECRET = secret_of(32)


def signed(signer: Signer, *, sent_at: int | None = None) -> dict[str, str]:
    return signer.headers("task:stage", BODY, sent_at=int(time.time()) if sent_at is None else sent_at)


def test_what_is_signed_passes_the_reference_verifier() -> None:
    headers = signed(Signer(SECRET))

    assert Webhook(SECRET).verify(BODY, headers) == {"type": "cabinet.stage", "text": "à"}


def test_the_headers_are_those_of_the_specification() -> None:
    headers = signed(Signer(SECRET), sent_at=1_674_087_231)

    digest = hmac.digest(b"k" * 32, b"task:stage.1674087231." + BODY, hashlib.sha256)
    assert headers == {
        "webhook-id": "task:stage",
        "webhook-timestamp": "1674087231",
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_a_key_of_the_specifications_example_signs_as_its_authors_do() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'

    headers = Signer(secret).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", body, sent_at=1_614_265_330)

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("header", "value"),
    [("webhook-id", "task:other"), ("webhook-timestamp", "a second ago"), ("webhook-signature", "v1,AAAA")],
)
def test_a_header_that_was_tampered_with_does_not_pass(header: str, value: str) -> None:
    tampered = str(int(time.time()) - 1) if header == "webhook-timestamp" else value
    headers = signed(Signer(SECRET)) | {header: tampered}

    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY, headers)


def test_a_body_that_was_tampered_with_does_not_pass() -> None:
    headers = signed(Signer(SECRET))

    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY.replace(b"stage", b"stagE"), headers)


def test_another_secret_does_not_pass() -> None:
    headers = signed(Signer(secret_of(32, b"x")))

    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY, headers)


def test_what_was_signed_six_minutes_ago_does_not_pass() -> None:
    headers = signed(Signer(SECRET), sent_at=int(time.time()) - 360)

    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(BODY, headers)


@pytest.mark.parametrize("known", [SECRET, secret_of(24, b"o")])
def test_while_a_secret_is_replaced_an_adapter_may_know_either(known: str) -> None:
    signer = Signer(SECRET, secret_of(24, b"o"))

    headers = signed(signer)

    assert Webhook(known).verify(BODY, headers)
    assert len(headers["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize("length", [24, 64])
def test_a_key_may_have_24_to_64_bytes(length: int) -> None:
    headers = signed(Signer(secret_of(length)))

    assert Webhook(secret_of(length)).verify(BODY, headers)


MALFORMED = [
    "",
    "whsec_",
    base64.b64encode(b"k" * 32).decode(),
    "WHSEC_" + base64.b64encode(b"k" * 32).decode(),
    "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    "whsec_" + base64.b64encode(b"k" * 32).decode().rstrip("="),
    SECRET + "\n",
    SECRET[:20] + " " + SECRET[20:],
    "whsec_ä" + base64.b64encode(b"k" * 32).decode(),
    secret_of(23),
    secret_of(65),
    None,
    SECRET.encode(),
]


@pytest.mark.parametrize("secret", MALFORMED)
def test_a_malformed_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^secret must be `whsec_` and then 24 to 64 random bytes") as refused:
        Signer(secret)

    assert base64.b64encode(b"kkk").decode() not in str(refused.value)
    assert refused.value.__suppress_context__ == (refused.value.__context__ is not None)


def test_a_malformed_previous_secret_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^previous_secret must be `whsec_`"):
        Signer(SECRET, "old")


def test_an_empty_previous_secret_is_malformed_too() -> None:
    with pytest.raises(ValueError, match=r"^previous_secret must be `whsec_`"):
        Signer(SECRET, "")


def test_an_id_with_the_separator_in_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no full stop"):
        Signer(SECRET).headers("a.1", BODY, sent_at=1)


def test_a_signer_does_not_show_its_keys() -> None:
    assert "k" * 24 not in repr(Signer(SECRET))
    assert not hasattr(Signer(SECRET), "__dict__")
