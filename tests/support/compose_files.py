"""Compose files as `docker compose` reads them: variables filled in, files merged, and the schema to hold them to."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMA = Path(__file__).parent / "compose" / "compose-spec.json"
REPLACED = ("command", "entrypoint")
"""Lists that a later file replaces; all others it prolongs (the Compose Specification, chapter 13)."""

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[-?])(?P<word>[^}]*))?\}")


class VariableMissing(Exception):
    """A variable that a compose file asks for with `:?` is not set."""


def merged(*paths: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the files say together; raises VariableMissing with the file's own words."""
    document: dict[str, Any] = {}
    for path in paths:
        document = _laid_over(document, _filled_in(yaml.safe_load(path.read_text(encoding="utf-8")), environ))
    return document


def faults(document: Mapping[str, Any]) -> list[str]:
    """Return what the Compose Specification's schema finds wrong."""
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    return [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(document)]


def _filled_in(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled_in(part, environ) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part, environ) for part in value]
    return _VARIABLE.sub(lambda found: _value(found, environ), value) if isinstance(value, str) else value


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    given = environ.get(found["name"])
    if given or found["kind"] == "-":
        return given or found["word"]
    if found["kind"] == "?":
        raise VariableMissing(f"{found['name']}: {found['word']}")
    return given or ""


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {name: _together(name, below[name], above[name]) for name in below.keys() & above.keys()}
    return {**below, **above, **both}


def _together(name: str, below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return _laid_over(below, above)
    if isinstance(below, list) and isinstance(above, list) and name not in REPLACED:
        return [*below, *(part for part in above if part not in below)]
    return below if above is None else above
