"""Forgeries: everything that does not say who calls, by bearer token and by signature, each with its name."""

import hmac
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.ids import new_id
from tests.support.signers import Message, Signer, covered, digest
from tests.web.asking import bearer, claims

ELSEWHERE = "evil.example"


def bad_identities(subject: str) -> dict[str, dict[str, str]]:
    """Return the headers of everything that is no good bearer token of a subject who would pass."""
    now = int(time.time())
    good = bearer(claims(subject))["Authorization"]
    token = good.removeprefix("Bearer ")
    head, middle, signature = good.split(".")
    forged = signature[:-4] + ("AAAA" if not signature.endswith("AAAA") else "BBBB")
    return {
        "no token": {},
        "empty": {"Authorization": ""},
        "no scheme": {"Authorization": token},
        "other scheme": {"Authorization": good.replace("Bearer", "Basic")},
        "scheme alone": {"Authorization": "Bearer"},
        "not a token": {"Authorization": "Bearer a.b.c"},
        "two parts": {"Authorization": f"{head}.{middle}"},
        "token twice": {"Authorization": f"{good} {good}"},
        "token in a cookie": {"Cookie": f"Authorization={token}; access_token={token}"},
        "name in a header": {"X-Forwarded-User": subject, "X-Remote-User": subject, "Remote-User": subject},
        "signature forged": {"Authorization": f"{head}.{middle}.{forged}"},
        "signature missing": {"Authorization": f"{head}.{middle}."},
        "other secret": bearer(claims(subject), secret="other-secret-" + "y" * 32),
        "algorithm none": bearer(claims(subject), algorithm="none"),
        "algorithm HS512": bearer(claims(subject), secret="test-secret-" + "x" * 64, algorithm="HS512"),
        "wrong issuer": bearer(claims(subject, iss="other")),
        "wrong audience": bearer(claims(subject, aud="other")),
        **{f"no {name}": bearer(claims(subject, **{name: None})) for name in claims(subject)},
        "not a subject": bearer(claims("white space")),
        "expired": bearer(claims(subject, iat=now - 100, exp=now - 1)),
        "issued in the future": bearer(claims(subject, iat=now + 60)),
        "expires before it was issued": bearer(claims(subject, iat=now + 4, exp=now + 3)),
        "lives too long": bearer(claims(subject, iat=now, exp=now + 2_592_001)),
        "times that are texts": bearer(claims(subject, exp=str(now + 100))),
        "times that are fractions": bearer(claims(subject, exp=now + 100.5)),
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Whose keys a forger works with: one that would pass, one of its user's that is revoked, and somebody else's."""

    subject: str
    fitting: Signer
    revoked: Signer
    other: Signer


def bad_signatures(message: Message, hands: Hands) -> dict[str, Message]:
    """Return the request, which would pass if it were signed well, signed in every way that is none."""
    return _forged_keys(message, hands) | _forged_parts(message, hands) | _uncovered(message, hands.fitting)


def with_all_parts(message: Message) -> Message:
    """Return a request with everything in it that a signature must cover where it is sent."""
    return _with_type(message.but(body=message.body or b" ")).put("Idempotency-Key", "one").put("If-Match", '"one"')


def _forged_keys(message: Message, hands: Hands) -> dict[str, Message]:
    sign, now = hands.fitting.sign, int(time.time())
    key_id, public_key = hands.fitting.key_id, hands.fitting.private_key.public_key()
    secret = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    signed, twice = sign(message), sign(message)
    return {
        "key of another": Signer(key_id=key_id, private_key=hands.other.private_key).sign(message),
        "unknown key": Signer(key_id=new_id()).sign(message),
        "revoked key": hands.revoked.sign(message),
        "algorithm other": sign(message, parameters={"alg": '"rsa-pss-sha512"'}),
        "public key as a secret": sign(
            message, parameters={"alg": '"hmac-sha256"'}, make=lambda base: hmac.digest(secret, base, "sha512")
        ),
        "zeros": sign(message, make=lambda _base: bytes(64)),
        "tag other": sign(message, parameters={"tag": '"other"'}),
        "expired": sign(message, parameters={"created": str(now - 70), "expires": str(now - 10)}),
        "created in the future": sign(message, parameters={"created": str(now + 30)}),
        "good for too long": sign(message, parameters={"expires": str(now + 90)}),
        "good for ever": sign(message, parameters={"expires": None}),
        "no nonce": sign(message, parameters={"nonce": None}),
        "signature without input": signed.drop("signature-input"),
        "input without signature": signed.drop("signature"),
        "signature twice": twice.add("Signature", twice.the("Signature")),
        "input twice": twice.add("Signature-Input", twice.the("Signature-Input")),
        "another's bearer beside it": signed.add("Authorization", "Bearer a.b.c"),
        "a good bearer beside it": signed.add("Authorization", bearer(claims(hands.subject))["Authorization"]),
    }


def _forged_parts(message: Message, hands: Hands) -> dict[str, Message]:
    sign, asked = hands.fitting.sign, {"method": message.method, "target": message.target}
    other_method = "GET" if message.method == "DELETE" else "DELETE"
    foreign = {'"@authority"': ELSEWHERE}
    signed, body = sign(message), message.body + b" "
    swapped = _with_type(signed).but(body=body)
    keyed = sign(message.put("Idempotency-Key", "one"))
    return {
        "other method": sign(message.but(method=other_method)).but(**asked),
        "other path": sign(message.but(target=f"{message.target}/other")).but(**asked),
        "query taken away": sign(message.but(target=f"{message.target}?limit=1")).but(**asked),
        "query added": signed.but(target=f"{message.target}?limit=1"),
        "other authority": sign(message, values=foreign),
        "forged Host": sign(message.put("Host", ELSEWHERE), values=foreign),
        "forged X-Forwarded-Host": sign(
            message.add("X-Forwarded-Host", ELSEWHERE).add("Forwarded", f"host={ELSEWHERE}"), values=foreign
        ),
        "body swapped": swapped,
        "body swapped with its digest": swapped.put("Content-Digest", digest(body)),
        "idempotency key swapped": keyed.put("Idempotency-Key", "two"),
        "content type swapped": sign(_with_type(message.but(body=body))).put("Content-Type", "text/plain"),
    }


def _uncovered(message: Message, signer: Signer) -> dict[str, Message]:
    full = with_all_parts(message)
    return {
        f"without {name}": signer.sign(full, components=[each for each in covered(full) if each != name])
        for name in covered(full)
    }


def _with_type(message: Message) -> Message:
    return message.put("Content-Type", "application/json")
