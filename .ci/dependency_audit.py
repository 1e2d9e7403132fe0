"""The audit of the lock files: every requirement pinned and hashed, none with a published advisory against it."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx2
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError, model_validator

SERVICE = "https://api.osv.dev"
"""The advisory service that is asked unless a folder is named (https://google.github.io/osv.dev/api/)."""

SERVICE_TIMEOUT_SECONDS = 10.0
"""How long one question to the service may take."""

PAGES_LIMIT = 50
"""Pages of advisories that are read about one package."""

STALE_AFTER = timedelta(days=180)
"""A folder whose newest advisory is older than this is warned of; the calendar alone never fails the audit."""

ECOSYSTEM = "PyPI"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
LOWEST = Version("0.dev0")
HASH = re.compile(r"hash=sha256:[0-9a-f]{64}")


class NotAudited(Exception):
    """The audit cannot be trusted to be complete: an advisory cannot be read or judged, or there is none."""


class Unreachable(Exception):
    """The advisory service did not answer as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One requirement of a lock file."""

    lock: str
    name: str
    version: Version


class Event(BaseModel):
    """One bound of a range; exactly one of its fields is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None

    @model_validator(mode="after")
    def _is_one_bound(self) -> "Event":
        if sum(bound is not None for bound in (self.introduced, self.fixed, self.last_affected)) != 1:
            raise ValueError("an event is one of introduced, fixed and last_affected")
        return self

    def bound(self) -> tuple[Version, int]:
        """Return the event's place in the order in which a range is walked."""
        if self.introduced is not None:
            return LOWEST if self.introduced == "0" else Version(self.introduced), 1
        if self.fixed is not None:
            return Version(self.fixed), 0
        return Version(str(self.last_affected)), 2


class Range(BaseModel):
    """Events of one kind of ordering; only ECOSYSTEM orders versions as PyPI does."""

    type: str
    events: list[dict[str, str]]

    def ordered(self) -> list[Event]:
        """Return the events from the lowest version up; ValidationError or InvalidVersion if one is none."""
        events = sorted((Event.model_validate(event) for event in self.events), key=Event.bound)
        if not any(event.introduced is not None for event in events):
            raise ValueError("a range begins nowhere: it has no introduced")
        return events


class Package(BaseModel):
    """What an advisory is about."""

    ecosystem: str
    name: str


class Affected(BaseModel):
    """The versions of one package that an advisory is about."""

    package: Package
    ranges: list[Range] = []
    versions: list[str] = []

    def is_about(self, name: str) -> bool:
        """Tell whether this is the package of PyPI of that normalised name."""
        return self.package.ecosystem == ECOSYSTEM and canonicalize_name(self.package.name) == name

    def ordered_ranges(self) -> list[list[Event]]:
        """Return the events of each range that can be judged; ValueError if nothing here can be."""
        ranges = [one.ordered() for one in self.ranges if one.type == "ECOSYSTEM"]
        if not ranges and not self.versions:
            raise ValueError("it names neither versions nor an ECOSYSTEM range")
        return ranges


class Advisory(BaseModel):
    """A record of the OSV schema (https://ossf.github.io/osv-schema/), as far as the audit reads it."""

    id: str
    modified: AwareDatetime
    withdrawn: AwareDatetime | None = None
    aliases: list[str] = []
    affected: list[Affected] = []

    @model_validator(mode="after")
    def _affects_something(self) -> "Advisory":
        if self.withdrawn is None and not self.affected:
            raise ValueError("it affects nothing")
        return self


def read_lock(path: Path) -> tuple[list[Pinned], list[str]]:
    """Return a lock file's requirements, and sentences about what in it is not pinned, hashed or free of hosts."""
    text = path.read_text(encoding="utf-8")
    pinned: list[Pinned] = []
    faults = [f"{path.name} names a host: {line.strip()}" for line in text.splitlines() if "://" in line]
    for line in requirement_lines(text):
        try:
            pinned.append(read_requirement(line, lock=path.name))
        except ValueError as error:
            faults.append(f"{path.name}: {error}")
    if not pinned and not faults:
        faults.append(f"{path.name} holds no requirement.")
    return pinned, faults


def requirement_lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        statement = re.sub(r"(^|\s)#.*", "", line).strip()
        if statement:
            yield statement


def read_requirement(line: str, *, lock: str) -> Pinned:
    """Return what a line pins; ValueError with a sentence if it does not pin one version with its hashes."""
    if line.startswith("-"):
        raise ValueError(f"an option is not a requirement: {line.split(maxsplit=1)[0]}")
    text, *options = re.split(r"\s+--", line)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"cannot be read: {text}") from error
    specifiers = list(requirement.specifier)
    if requirement.url or len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
        raise ValueError(f"{text} is not pinned: name one version with ==.")
    if not options or not all(HASH.fullmatch(option.strip()) for option in options):
        raise ValueError(f"{text} needs its sha256 hashes and nothing else; make lock writes them.")
    return Pinned(lock=lock, name=canonicalize_name(requirement.name), version=Version(specifiers[0].version))


def read_advisory(record: Any, *, source: str) -> Advisory:
    """Return the record; NotAudited if it is none."""
    try:
        return Advisory.model_validate(record)
    except ValidationError as error:
        raise NotAudited(f"{source} is no advisory that can be read: {error.errors()[0]['msg']}") from error


def read_folder(folder: Path) -> list[Advisory]:
    """Return the advisories in a folder and below it, OSV records as YAML or JSON; NotAudited if there is none."""
    advisories = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
            # The base loader leaves every scalar a string: 1.10 is a version here, not a number.
            record = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CBaseLoader)  # noqa: S506 it builds strings, lists and dicts only
        except (ValueError, yaml.YAMLError) as error:
            raise NotAudited(f"{path} cannot be read.") from error
        advisories.append(read_advisory(record, source=str(path)))
    if not any(entry.package.ecosystem == ECOSYSTEM for advisory in advisories for entry in advisory.affected):
        raise NotAudited(f"{folder} holds no advisory about a package of {ECOSYSTEM}.")
    return advisories


def ask_service(service: str, names: Iterable[str]) -> list[Advisory]:
    """Return every advisory about the packages; Unreachable if the service does not answer one of the questions."""
    with httpx2.Client(base_url=service, timeout=SERVICE_TIMEOUT_SECONDS) as client:
        records = [record for name in names for record in ask(client, name)]
    if not records:
        raise Unreachable(f"{service} knows of no advisory about any of the packages, ever, which is hard to believe")
    return [read_advisory(record, source=f"An answer of {service}") for record in records]


def ask(client: httpx2.Client, name: str) -> Iterator[Any]:
    question: dict[str, Any] = {"package": {"name": name, "ecosystem": ECOSYSTEM}}
    for _ in range(PAGES_LIMIT):
        try:
            answer = client.post("/v1/query", json=question).raise_for_status().json()
        except (httpx2.HTTPError, ValueError) as error:
            raise Unreachable(f"{client.base_url} did not answer about {name} ({type(error).__name__})") from error
        if not isinstance(answer, dict):
            raise Unreachable(f"{client.base_url} did not answer about {name} as an advisory service does")
        yield from answer.get("vulns", [])
        if not answer.get("next_page_token"):
            return
        question["page_token"] = answer["next_page_token"]
    raise NotAudited(f"There are more than {PAGES_LIMIT} pages of advisories about {name}.")


def judge(advisory: Advisory, pinned: Pinned) -> str | None:
    """Return the sentence that names an advisory against this version, or None; NotAudited if it cannot be judged."""
    if advisory.withdrawn is not None:
        return None
    for entry in advisory.affected:
        if not entry.is_about(pinned.name):
            continue
        try:
            ranges = entry.ordered_ranges()
        except ValueError as error:
            raise NotAudited(f"{advisory.id} about {pinned.name} cannot be judged: {error}") from error
        if is_listed(entry.versions, pinned.version) or any(is_inside(events, pinned.version) for events in ranges):
            known_as = ", ".join([advisory.id, *advisory.aliases])
            remedy = first_fix(ranges, pinned.version)
            return f"{pinned.lock}: {pinned.name} {pinned.version} has {known_as}; {remedy}"
    return None


def is_listed(versions: Iterable[str], version: Version) -> bool:
    return any(same_version(one, version) for one in versions)


def same_version(text: str, version: Version) -> bool:
    try:
        return Version(text) == version
    except InvalidVersion:
        return False  # a version from before PEP 440, which no lock can pin


def is_inside(events: Iterable[Event], version: Version) -> bool:
    """Tell whether a version lies in a range; the events come from the lowest up (the OSV schema's evaluation)."""
    inside = False
    for event in events:
        bound, _ = event.bound()
        if event.introduced is not None:
            inside = inside or version >= bound
        elif version > bound or (event.fixed is not None and version == bound):
            inside = False
    return inside


def first_fix(ranges: Iterable[Iterable[Event]], version: Version) -> str:
    fixes = [Version(event.fixed) for events in ranges for event in events if event.fixed is not None]
    later = [fix for fix in fixes if fix > version]
    return f"fixed in {min(later)}." if later else "no fixed version is named."


def describe_folder(folder: Path, advisories: Iterable[Advisory], *, now: datetime) -> str:
    newest = max(advisory.modified for advisory in advisories)
    description = f"{folder}, whose newest advisory is of {newest:%Y-%m-%d}"
    if now - newest > STALE_AFTER:
        description += f" (WARNING: {(now - newest).days} days ago; what was found since is not in it)"
    return description


def consult(folder: Path | None, service: str, locked: list[Pinned], *, now: datetime) -> tuple[list[Advisory], str]:
    """Return the advisories, from the folder if one is named or else from the service, and where they come from."""
    if folder is None:
        return ask_service(service, sorted({pinned.name for pinned in locked})), service
    advisories = read_folder(folder)
    return advisories, describe_folder(folder, advisories, now=now)


@click.command()
@click.option("--locks", default=Path(), type=click.Path(path_type=Path), help="The folder of the requirements*.lock.")
@click.option("--advisories", type=click.Path(path_type=Path), help="A folder of OSV records, instead of the service.")
@click.option("--service", default=SERVICE, show_default=True, help="The advisory service, spoken to as OSV.")
@click.option("--require-advisories", is_flag=True, help="Fail also where no advisory could be consulted.")
def audit(locks: Path, advisories: Path | None, service: str, *, require_advisories: bool) -> None:
    """Exit 1 if a requirement is not pinned and hashed, has an advisory against it, or cannot be judged."""
    files = sorted(locks.glob("requirements*.lock"))
    if not files:
        sys.exit(f"There is no requirements*.lock in {locks.resolve()}.")
    read = [read_lock(path) for path in files]
    locked = [pinned for requirements, _ in read for pinned in requirements]
    faults = [fault for _, faults in read for fault in faults]
    try:
        known, source = consult(advisories, service, locked, now=datetime.now(UTC))
        faults += [fault for advisory in known for pinned in locked if (fault := judge(advisory, pinned))]
        click.echo(f"Consulted: {source}.")
        closing = "pinned, hashed and without an advisory against them"
    except NotAudited as error:
        faults.append(str(error))
    except Unreachable as error:
        message = f"No advisory was consulted: {error}. Only the form of the lock files was checked."
        click.echo(f"WARNING: {message}", err=True)
        faults += [message] if require_advisories else []
        closing = "pinned and hashed"
    if faults:
        sys.exit("\n".join(faults))
    click.echo(f"{len(files)} lock files, {len({pinned.name for pinned in locked})} packages: {closing}.")


if __name__ == "__main__":
    audit()
