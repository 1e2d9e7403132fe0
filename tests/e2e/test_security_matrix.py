"""The security matrix on a real server: every protected route against every named forgery, and what passes."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.home import Home
from tests.e2e.town import WAYS, Cast, Town
from tests.e2e.traces import changes, tables
from tests.support.forgeries import bad_identities, bad_signatures, with_all_parts
from tests.support.processes import NOT_MEASURED, ServiceProcess, service
from tests.support.routes import GUARDED, Line, Verdict, as_seen, control_of, lacking
from tests.support.signers import Message
from tests.web.asking import bearer, claims

AT_ONCE = 4
"""How many routes are attacked at the same time, each over a connection of its own."""

FORGERIES_LEAST = 70
"""How many forgeries there are for a line at least; most have more."""

SETTINGS = {"PIPELINE": "tests.support.routes:broken", "PUBLIC_ORIGIN": "https://cabinet.test", **NOT_MEASURED}


# Forgeries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """A request that is refused so; those whose signature verifies use up their nonce all the same."""

    message: Message
    refused: Verdict
    uses_nonce: bool = False

    @property
    def told(self) -> Verdict:
        """What of the refusal the answer shows."""
        return as_seen((self.message.method, self.message.target), self.refused)


def forgeries(town: Town, line: Line) -> dict[str, Forgery]:
    """Return every forgery of a line by its name, in the order in which they are sent."""
    cast, message = town.cast(line), town.message(line)
    kinds = [
        {
            f"bearer: {name}": Forgery(message=with_headers(message, headers), refused=(401, "not_authenticated"))
            for name, headers in bad_identities(cast.fitting.subject).items()
        },
        {
            f"signed: {name}": Forgery(message=signed, refused=(401, "bad_signature"))
            for name, signed in bad_signatures(message, cast.hands).items()
        },
        from_those_who_lack_something(line, cast, message),
        sent_twice(with_headers(message, cast.fitting.bearer())),
    ]
    found = {name: forgery for kind in kinds for name, forgery in kind.items()}
    assert len(found) == sum(map(len, kinds)), "two forgeries have one name"
    return found


def from_those_who_lack_something(line: Line, cast: Cast, message: Message) -> dict[str, Forgery]:
    """Return the request from callers who prove who they are; a signed one is sent again after it was refused."""
    found = {}
    for name, (who, refused) in lacking(line).items():
        headers = cast.others[who].bearer() if who in cast.others else bearer(claims(who))
        found[f"bearer: {name}"] = Forgery(message=with_headers(message, headers), refused=refused)
        if who in cast.others:
            signed = cast.others[who].signer.sign(message)
            found[f"signed: {name}"] = Forgery(message=signed, refused=refused, uses_nonce=True)
            found[f"signed: {name}, again"] = Forgery(message=signed, refused=(401, "bad_signature"))
    return found


def sent_twice(good: Message) -> dict[str, Forgery]:
    """Return a request that passes with a header line doubled."""
    host = good.add("Host", "cabinet.test")
    return {
        f"{name} twice": Forgery(message=each.add(name, each.the(name)), refused=(400, "bad_request"))
        for name, each in {"Authorization": good, "Host": host}.items()
    }


def with_headers(message: Message, headers: Mapping[str, str]) -> Message:
    """Return a request with these headers in place of any of their names."""
    for name, value in headers.items():
        message = message.put(name, value)
    return message


def nonce_of(message: Message) -> tuple[str, str]:
    """Return which nonce of which key a signed request uses up."""
    given = dict(re.findall(r';(keyid|nonce)="([^"]*)"', message.the("Signature-Input")))
    return given["keyid"], given["nonce"]


# Asking --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes

    @property
    def verdict(self) -> Verdict:
        """The status, and the code if it is a problem with a body."""
        return self.status, json.loads(self.body).get("code") if self.body else None


@dataclass(slots=True)
class Connection:
    """A connection that sends exactly the bytes that a request has, one after the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str

    async def ask(self, message: Message) -> Answer:
        """Send a request and read its whole answer."""
        self.writer.write(message.wire(self.host).replace(b"Connection: close\r\n", b"", 1))
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        found = re.search(r"^content-length: ([0-9]+)\r$", head, re.MULTILINE)
        assert found, head
        body = b"" if message.method == "HEAD" else await self.reader.readexactly(int(found[1]))
        return Answer(status=int(head.split(" ", 2)[1]), body=body)


@asynccontextmanager
async def connected(running: ServiceProcess) -> AsyncIterator[Connection]:
    """Open a connection to a service until the block ends."""
    address = running.url.removeprefix("http://")
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer, address)
    finally:
        writer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A forgery that was sent, and what it was told."""

    forgery: Forgery
    verdict: Verdict


async def attack(running: ServiceProcess, town: Town) -> dict[tuple[Line, str], Refused]:
    """Send all forgeries of all lines, those of a line one after the other, each made when its line's turn comes."""
    told: dict[tuple[Line, str], Refused] = {}
    waiting = list(GUARDED)

    async def attack_next() -> None:
        async with connected(running) as connection:
            while waiting:
                line = waiting.pop()
                for name, forgery in forgeries(town, line).items():
                    verdict = (await connection.ask(forgery.message)).verdict
                    told[line, name] = Refused(forgery=forgery, verdict=verdict)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(attack_next())
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What a control was answered, in both ways, and what the signed one was when it was sent again."""

    statuses: Mapping[str, int]
    verdict_again: Verdict
    changes: list[str]
    changes_again: list[str]


async def pass_through(connection: Connection, home: Home, town: Town, line: Line) -> Passed:
    """Send the two controls of a line, and the signed one again."""
    fitting = town.cast(line).fitting
    signed = fitting.signer.sign(with_all_parts(town.message(line, "signature")))
    before = tables(home)
    by_bearer = await connection.ask(with_headers(town.message(line), fitting.bearer()))
    between = tables(home)
    by_signature = await connection.ask(signed)
    after = tables(home)
    again = await connection.ask(signed)
    return Passed(
        statuses={"bearer": by_bearer.status, "signature": by_signature.status},
        verdict_again=again.verdict,
        changes=changes(before, between),
        changes_again=changes(after, tables(home)),
    )


def denied(home: Home) -> Counter[str]:
    """Return how many denials of each code the audit holds, alone and in sums."""
    rows = home.rows("SELECT code, SUM(occurrences) FROM audit_events WHERE outcome = 'denied' GROUP BY code")
    return Counter(dict(rows))


async def test_no_forgery_passes_or_leaves_a_trace_at_any_route_and_the_control_of_each_passes(home: Home) -> None:
    async with service(home.folder, **SETTINGS) as running, running.client(home.tokens["root"]) as root:
        town = Town(root)
        await town.populate()
        assert await running.terminate() == 0
    async with service(home.folder, WORKER_EMBEDDED="false", **SETTINGS) as running:
        async with running.client(home.tokens["root"]) as root:
            town.root = root
            await town.furnish()
        before = tables(home)

        refused = await attack(running, town)
        after = tables(home)
        async with connected(running) as connection:
            passed = {line: await pass_through(connection, home, town, line) for line in GUARDED}
        assert await running.terminate() == 0

    assert min(Counter(line for line, _ in refused).values()) >= FORGERIES_LEAST
    told = {name: (each.verdict, each.forgery.told) for name, each in refused.items()}
    assert {name: pair for name, pair in told.items() if pair[0] != pair[1]} == {}
    nonces = [nonce_of(each.forgery.message) for each in refused.values() if each.forgery.uses_nonce]
    assert changes(before, after, nonces=nonces) == []
    assert set(nonces) <= {(row["key_id"], row["nonce"]) for row in map(dict, after["nonces"])}
    assert {line: each.statuses for line, each in passed.items()} == {
        line: dict.fromkeys(WAYS, control_of(line).passes) for line in GUARDED
    }
    assert {line: each.verdict_again for line, each in passed.items()} == {
        line: as_seen(line, (401, "bad_signature")) for line in GUARDED
    }
    assert {line: each.changes_again for line, each in passed.items()} == {line: [] for line in GUARDED}
    assert {line for line, each in passed.items() if each.changes} == {
        line for line in GUARDED if line[0] not in ("GET", "HEAD")
    }
    codes = Counter(each.forgery.refused[1] for each in refused.values() if each.forgery.refused[0] in (401, 403))
    assert denied(home) == codes + Counter({"bad_signature": len(GUARDED)})


@pytest.mark.parametrize("name", ["users", "jobs", "signing_keys", "audit_seals", "audit_events", "nonces"])
def test_the_comparison_sees_a_row_that_is_gone_or_another(name: str) -> None:
    row, other = _row(id="1", outcome="denied"), _row(id="1", outcome="allowed")

    assert changes({name: Counter([row])}, {name: Counter([row])}) == []
    assert changes({name: Counter([row])}, {name: Counter()}) == [f"{name} lost {dict(row)}"]
    assert f"{name} lost {dict(row)}" in changes({name: Counter([row])}, {name: Counter([other])}, nonces=[("k", "n")])
    assert changes({name: Counter([row, row])}, {name: Counter([row])}) == [f"{name} lost {dict(row)}"]


@pytest.mark.parametrize(
    ("name", "row", "is_seen"),
    [
        ("users", {"id": "1"}, True),
        ("a_table_of_tomorrow", {"id": "1"}, True),
        ("audit_events", {"outcome": "allowed"}, True),
        ("audit_events", {"outcome": "denied"}, False),
        ("audit_seals", {"number": 1}, False),
        ("nonces", {"key_id": "k", "nonce": "other"}, True),
        ("nonces", {"key_id": "k", "nonce": "n"}, False),
        ("probes", {"id": 1}, False),
    ],
)
def test_the_comparison_sees_every_new_row_that_no_refusal_makes(
    name: str, row: Mapping[str, Any], *, is_seen: bool
) -> None:
    found = changes({}, {name: Counter([_row(**row)])}, nonces=[("k", "n")])

    assert found == ([f"{name} got {row}"] if is_seen else [])


async def test_the_comparison_reads_every_table_of_the_file(home: Home) -> None:
    with closing(home.connect()) as connection:
        connection.execute("CREATE TABLE planted (id INTEGER)")
        before = tables(home)
        connection.execute("INSERT INTO planted VALUES (1)")

    assert changes(before, tables(home)) == ["planted got {'id': 1}"]


def _row(**values: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(values.items())
