"""The attacks on signed requests, by what they touch."""

from app.ids import new_id
from tests.e2e.attacks import (
    HOST,
    ORIGIN,
    Attack,
    Bench,
    addressed,
    covering,
    cut_short,
    digested,
    edited,
    instead,
    plus_the_order,
    said,
    said_as,
    sent_as,
    spare_bits,
    target,
    twice,
    two_signatures,
    with_hmac,
    without,
)
from tests.support.signers import Message, covered, digest, json_message

HEADERS = {
    "Signature-Input alone": Attack(lambda bench: bench.get().drop("signature"), Bench.get),
    "Signature alone": Attack(lambda bench: bench.get().drop("signature-input"), Bench.get),
    "both empty": Attack(lambda bench: bench.get().put("Signature", "").put("Signature-Input", ""), Bench.get),
    "Signature-Input twice": twice("Signature-Input"),
    "Signature twice": twice("Signature"),
    "two signatures in two lines": Attack(
        lambda bench: two_signatures(bench, are_lines=True), lambda bench: bench.get(label="two")
    ),
    "two members in one line": Attack(
        lambda bench: two_signatures(bench, are_lines=False), lambda bench: bench.get(label="two")
    ),
    "a member more": edited("Signature-Input", '-v1"', '-v1", b=()'),
    "labels that differ": Attack(
        lambda bench: bench.get().edit("signature", "sig=", "gis="), lambda bench: bench.get(label="gis")
    ),
    "a label in capitals": Attack(lambda bench: bench.get(label="Sig"), lambda bench: bench.get(label="*-.s_9")),
    "a label of 65 letters": Attack(lambda bench: bench.get(label="s" * 65), lambda bench: bench.get(label="s" * 64)),
    "blanks between": edited("Signature-Input", '("@method"', '( "@method"'),
    "two blanks between": edited("Signature-Input", '"@method" ', '"@method"  '),
    "a blank behind a semicolon": edited("Signature-Input", ";created", "; created"),
    "a comma at the end": edited("Signature-Input", '-v1"', '-v1",', control='-v1" \t'),
    "a semicolon at the end": edited("Signature-Input", '-v1"', '-v1";'),
    "letters of no one's alphabet": edited("Signature-Input", "created", "cre\xe4ted"),
    "a header without end": edited("Signature-Input", ";created=", ";created=" + "1" * 3_000),
    "a signature with a parameter": edited("Signature", "==:", "==:;a=1"),
    "a signature that is a text": edited("Signature", "sig=:", 'sig="":'),
    "a signature without padding": edited("Signature", "==:", ":"),
    "a signature of 63 bytes": Attack(lambda bench: cut_short(bench.get()), Bench.get),
    "bits to spare in base64": Attack(lambda bench: spare_bits(bench.get()), Bench.get),
    "a signature and a bearer token": Attack(
        lambda bench: bench.get().add("Authorization", f"Bearer {bench.token}"), Bench.get
    ),
    "a signature and an empty Authorization": Attack(lambda bench: bench.get().add("Authorization", ""), Bench.get),
    "half a signature and a bearer token": Attack(
        lambda bench: Message().add("Authorization", f"Bearer {bench.token}").add("Signature", "sig=:AA==:"),
        lambda bench: Message().add("Authorization", f"Bearer {bench.token}"),
    ),
}

PARAMETERS = {
    **{f"no {name}": said_as(**{name: None}) for name in ("created", "expires", "keyid", "nonce", "alg", "tag")},
    "created twice": said(
        lambda bench: {"tag": f'"cabinet-v1";created={bench.at(0)}'}, lambda _: {"tag": '"cabinet-v1"'}
    ),
    "keyid twice": said_as(tag='"cabinet-v1";keyid="another"'),
    "one that is not known": said_as(tag='"cabinet-v1";x=1'),
    "a flag": said_as(tag='"cabinet-v1";x'),
    "created is a text": said(lambda bench: {"created": f'"{bench.at(0)}"'}, lambda bench: {"created": bench.at(0)}),
    "created is a decimal": said(lambda bench: {"created": f"{bench.at(0)}.0"}, lambda bench: {"created": bench.at(0)}),
    "created with a zero before": said(
        lambda bench: {"created": f"0{bench.at(0)}"}, lambda bench: {"created": bench.at(0)}
    ),
    "created is true": said_as(created="?1"),
    "created below zero": said_as(created="-1"),
    "expires is a text": said(lambda bench: {"expires": f'"{bench.at(9)}"'}, lambda bench: {"expires": bench.at(9)}),
    "keyid is a number": said_as(keyid="1"),
    "keyid is bytes": said_as(keyid=":AAAA:"),
    "keyid with an escape": said_as(keyid='"a\\"b"'),
    "nonce is a number": said_as(nonce="1234567890123456"),
    "nonce is short": said(lambda _: {"nonce": '"123456789012345"'}, lambda _: {"nonce": '"1234567890123456"'}),
    "nonce is long": said(lambda _: {"nonce": f'"{"n" * 129}"'}, lambda _: {"nonce": f'"{"n" * 128}"'}),
    "nonce of blanks": said_as(nonce=f'"{" " * 20}"'),
    "alg is a token": said_as(alg="ed25519"),
    "alg in capitals": said_as(alg='"Ed25519"'),
    "alg none": said_as(alg='"none"'),
    "alg rsa": said_as(alg='"rsa-v1_5-sha256"'),
    "another tag": said_as(tag='"cabinet-v2"'),
    "an empty tag": said_as(tag='""'),
    "expired": said(
        lambda bench: {"created": bench.at(-66), "expires": bench.at(-6)},
        lambda bench: {"created": bench.at(-60), "expires": bench.at(0)},
    ),
    "of the future": said(
        lambda bench: {"created": bench.at(30), "expires": bench.at(60)},
        lambda bench: {"created": bench.at(2), "expires": bench.at(60)},
    ),
    "good for too long": said(
        lambda bench: {"created": bench.at(-1), "expires": bench.at(60)},
        lambda bench: {"created": bench.at(-1), "expires": bench.at(59)},
    ),
    "good for no time": said(
        lambda bench: {"created": bench.at(0), "expires": bench.at(0)},
        lambda bench: {"created": bench.at(-1), "expires": bench.at(0)},
    ),
    "expires before it was created": said(
        lambda bench: {"created": bench.at(1), "expires": bench.at(0)},
        lambda bench: {"created": bench.at(0), "expires": bench.at(1)},
    ),
    "expires in the year 33658": said_as(expires="999999999999"),
    "a number of a thousand digits": said_as(expires="9" * 1_000),
    "in another order": Attack(
        lambda bench: bench.get().edit(
            "Signature-Input", ';alg="ed25519";tag="cabinet-v1"', ';tag="cabinet-v1";alg="ed25519"'
        ),
        lambda bench: bench.get(
            parameters={"alg": '"ed25519"', "tag": None, "nonce": '"0123456789abcdef0";tag="cabinet-v1"'}
        ),
    ),
}

COMPONENTS = {
    **{
        f"{name} is not covered": without(name)
        for name in (
            "@method",
            "@authority",
            "@path",
            "@query",
            "content-type",
            "content-digest",
            "idempotency-key",
            "if-match",
        )
    },
    "nothing is covered": covering(lambda _: []),
    "covered twice": covering(lambda names: [*names, '"@method"']),
    "a header more": covering(lambda names: [*names, '"date"']),
    "the target too": covering(lambda names: [*names, '"@target-uri"'], **{'"@target-uri"': f"{ORIGIN}/v1/tasks"}),
    "the scheme too": covering(lambda names: [*names, '"@scheme"'], **{'"@scheme"': "https"}),
    "the parameters themselves": covering(lambda names: [*names, '"@signature-params"']),
    "a status": covering(lambda names: [*names, '"@status"'], **{'"@status"': "200"}),
    "a part of the query": covering(
        lambda names: [*names, '"@query-param";name="a"'], **{'"@query-param";name="a"': ""}
    ),
    "the method of a request": instead("@method", '"@method";req'),
    "a content type in another form": instead("content-type", '"content-type";sf'),
    "a digest as bytes": instead("content-digest", '"content-digest";bs'),
    "a member of the digest": instead("content-digest", '"content-digest";key="sha-256"'),
    "a key from the trailer": instead("idempotency-key", '"idempotency-key";tr'),
    "in capitals": instead("@method", '"@METHOD"'),
    "as a token": instead("content-type", "content-type"),
    "a covered header that is not there": Attack(
        lambda bench: bench.get(components=[*covered(Message()), '"if-match"'], values={'"if-match"': ""}),
        lambda bench: bench.get(more=Message().add("If-Match", "")),
    ),
}

REQUESTS = {
    "GET sent as DELETE": Attack(
        lambda bench: bench.get(bench.spare).but(method="DELETE"), lambda bench: bench.get(bench.spare, method="DELETE")
    ),
    "GET sent as HEAD": sent_as(lambda message: message.but(method="HEAD"), of=Bench.get),
    "HEAD sent as GET": sent_as(lambda message: message.but(method="GET"), of=lambda bench: bench.get(method="HEAD")),
    "another path": target("/v1/tasks", "/v1/me"),
    "a path in other letters": target("/v1/me", "/v1/%6De"),
    "an escape in other letters": target("/v1/%6De", "/v1/%6de"),
    "another query": target("/v1/tasks?limit=1", "/v1/tasks?limit=2"),
    "no query": target("/v1/tasks?limit=1", "/v1/tasks"),
    "a query": target("/v1/tasks", "/v1/tasks?limit=1"),
    "a query the other way round": target("/v1/tasks?limit=1&status=open", "/v1/tasks?status=open&limit=1"),
    "a query in other letters": target("/v1/tasks?limit=1", "/v1/tasks?limit=%31"),
    "a filter more": target("/v1/tasks", "/v1/tasks?reference=1"),
    "another body": sent_as(lambda message: message.but(body=b'{"payload":{"a":1}}')),
    "another body with its digest": sent_as(
        lambda message: message.but(body=b'{"payload": {}}').put("Content-Digest", digest(b'{"payload": {}}'))
    ),
    "no body any more": Attack(
        lambda bench: bench.alice.sign(json_message("DELETE", bench.spare, b'{"reason":"lost"}')).but(body=b""),
        lambda bench: bench.alice.sign(json_message("DELETE", bench.spare, b'{"reason":"lost"}')),
    ),
    "a body that nobody signed": Attack(
        lambda bench: bench.get().but(body=b"{}").add("Content-Type", "application/json"),
        lambda bench: bench.alice.sign(Message(body=b"{}", headers=(("Content-Type", "application/json"),))),
    ),
    "a body in other chunks": Attack(
        lambda bench: bench.task().but(body=b'{"payload":{"b":1}}').wire(HOST, is_chunked=True),
        lambda bench: bench.task('{"b":1}').wire(HOST, is_chunked=True),
    ),
    "another content type": sent_as(lambda message: message.put("Content-Type", "application/json; charset=utf-8")),
    "no content type": Attack(lambda bench: bench.task().drop("content-type"), Bench.task),
    "another idempotency key": sent_as(lambda message: message.put("Idempotency-Key", new_id())),
    "no idempotency key": Attack(lambda bench: bench.task().drop("idempotency-key"), Bench.task),
    "an idempotency key more": twice("Idempotency-Key"),
    "a condition that nobody signed": sent_as(lambda message: message.add("If-Match", '"1"'), of=Bench.get),
    "another condition": Attack(
        lambda bench: bench.get(more=Message().add("If-Match", '"1"')).put("If-Match", '"2"'),
        lambda bench: bench.get(more=Message().add("If-Match", '"2"')),
    ),
    "a condition twice": twice("If-Match"),
    "a content type twice": twice("Content-Type"),
    "a digest twice": twice("Content-Digest"),
    "no digest": Attack(lambda bench: bench.task().drop("content-digest"), Bench.task),
    "the digest of something else": digested(lambda _: digest(b"something else")),
    "a digest of md5": digested(lambda body: digest(body, "md5")),
    "a digest of sha-1": digested(lambda body: digest(body, "sha-1")),
    "two digests": digested(lambda body: f"{digest(body)}, {digest(body, 'sha-512')}"),
    "a digest with another beside": digested(lambda body: f"md5=:AAAA:, {digest(body)}"),
    "an empty digest": digested(lambda _: ""),
    "a digest cut short": digested(lambda body: digest(body).replace("sha-256=:", "sha-256=:AAAA")),
    "another host": addressed("evil.example.com", Host="evil.example.com"),
    "another forwarded host": addressed("evil.example.com", X_Forwarded_Host="evil.example.com"),
    "another forwarding": addressed("evil.example.com", Forwarded="host=evil.example.com;proto=https"),
    "the address of the socket": addressed("127.0.0.1:PORT", Host="127.0.0.1"),
    "the host without the port": addressed("cabinet.example.com", Host="cabinet.example.com"),
    "the host in capitals": addressed("CABINET.example.com:8443", Host="CABINET.example.com:8443"),
    "a URL for a path": Attack(
        lambda bench: bench.get(f"https://{HOST}/v1/tasks").but(target=f"https://{HOST}/v1/me").put("Host", HOST),
        lambda bench: bench.get("/v1/me").but(target=f"https://{HOST}/v1/me").put("Host", HOST),
    ),
}

KEYS = {
    "a key that nobody knows": Attack(lambda bench: bench.by(bench.alice, key_id=new_id()), Bench.get),
    "a key id in capitals": Attack(lambda bench: bench.by(bench.alice, key_id=bench.alice.key_id.upper()), Bench.get),
    "somebody else's key id": Attack(
        lambda bench: bench.by(bench.alice, key_id=bench.bob.key_id), lambda bench: bench.by(bench.bob)
    ),
    "a key that was revoked": Attack(lambda bench: bench.by(bench.revoked), Bench.get),
    "a key of somebody who was deactivated": Attack(
        lambda bench: bench.by(bench.sleeping), Bench.get, (403, "inactive_user")
    ),
    "a forged signature with a key of somebody deactivated": Attack(
        lambda bench: bench.by(bench.alice, key_id=bench.sleeping.key_id), Bench.get
    ),
    "a signature of zeros": Attack(lambda bench: bench.get(make=lambda _: bytes(64)), Bench.get),
    "a signature of the neutral point": Attack(lambda bench: bench.get(make=lambda _: b"\1" + bytes(63)), Bench.get),
    "the order added to a signature": Attack(lambda bench: bench.get(make=plus_the_order(bench)), Bench.get),
    "a signature of the next line": Attack(
        lambda bench: bench.get(make=lambda base: bench.alice.private_key.sign(base + b"\n")), Bench.get
    ),
    "an HMAC with the public key": Attack(lambda bench: bench.get(make=with_hmac(bench)), Bench.get),
    "an HMAC that says so": Attack(
        lambda bench: bench.get(make=with_hmac(bench), parameters={"alg": '"hmac-sha256"'}), Bench.get
    ),
}

ATTACKS: dict[str, dict[str, Attack]] = {
    "headers": HEADERS,
    "parameters": PARAMETERS,
    "components": COMPONENTS,
    "requests": REQUESTS,
    "keys": KEYS,
}
