"""The texts that settings are made of: environment variables, a `.env` file and a secrets folder.

Names count without regard to case. Space around a value does not count and an empty value is no value. Nothing in a
value is expanded: `$` and `~` stand for themselves. What is wrong is appended to `faults`, one sentence each, never
with a value, for whatever stands under a wrong name may be a secret.
"""

import difflib
import io
import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path

from dotenv.parser import parse_stream

DEFAULT_SECRETS_DIR = Path("/run/secrets")
FILE_LIMIT_BYTES = 65_536
SLIP_LENGTH = 6
"""From this length on a name catches its misspellings in the environment; HOST and PORT would catch innocents."""

# A line of a key or certificate that lost its quotes looks like a name too; it is in mixed case.
_SHOWABLE = re.compile(r"[A-Z][A-Z0-9_.-]{0,39}|[a-z][a-z0-9_.-]{0,39}")


def gather(environ: Mapping[str, str], folder: Path, names: frozenset[str], faults: list[str]) -> dict[str, str]:
    """Return the texts by the names of their settings; the environment beats `.env`, which beats the secrets folder."""
    given = from_environment(environ, names, faults)
    given = from_dotenv(folder / ".env", names, faults) | given
    return from_secrets(_secrets_dir(given, folder), names - {"SECRETS_DIR"}, faults) | given


def from_environment(environ: Mapping[str, str], names: frozenset[str], faults: list[str]) -> dict[str, str]:
    """Take the settings out of the environment; other names are none of our business unless they are one slip away."""
    known = [(name, text) for name, text in environ.items() if name.upper() in names]
    others = sorted(name for name in environ if name.upper() not in names)
    slips = [(name, meant) for name in others if (meant := _slip_of(name, names))]
    faults += [
        f"{_shown(name)} in the environment is not a setting; did you mean {meant}? Rename it." for name, meant in slips
    ]
    return _once(known, "the environment", faults)


def from_dotenv(path: Path, names: frozenset[str], faults: list[str]) -> dict[str, str]:
    """Take the settings out of a `.env` file, if there is one; it may hold nothing else."""
    known = []
    content = _read(path, ".env", faults) if _present(path) else ""
    for binding in parse_stream(io.StringIO(content)):
        line = f"line {binding.original.line} of .env"
        if binding.error or (binding.key and binding.value is None):
            faults.append(f"There is no setting in {line}; write NAME=value, quoted if it holds # or spaces.")
        elif binding.key and binding.key.upper() in names:
            known.append((binding.key, binding.value or ""))
        elif binding.key:
            faults.append(_unknown(binding.key, names, line))
    return _once(known, ".env", faults)


def from_secrets(folder: Path | None, names: frozenset[str], faults: list[str]) -> dict[str, str]:
    """Take the settings out of the files of a folder; folders and names that begin with a dot are left alone."""
    known = []
    for path in _files_of(folder, faults):
        if path.name.upper() in names:
            known.append((path.name, _read(path, f"The file {path.name} in the secrets folder", faults)))
        else:
            faults.append(_unknown(path.name, names, f"the secrets folder {folder}"))
    return _once(known, "the secrets folder", faults)


def _secrets_dir(given: Mapping[str, str], folder: Path) -> Path | None:
    """Return the folder that was chosen, or the default one if it is there."""
    if "SECRETS_DIR" in given:
        return folder / given["SECRETS_DIR"]
    return DEFAULT_SECRETS_DIR if _present(DEFAULT_SECRETS_DIR) else None


def _present(path: Path) -> bool:
    """Tell whether there is something to read; when that cannot be told, reading it will say why."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _files_of(folder: Path | None, faults: list[str]) -> list[Path]:
    """List what is to be read, in a fixed order."""
    try:
        entries = sorted(folder.iterdir()) if folder else []
        return [path for path in entries if not path.name.startswith(".") and not path.is_dir()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a path"
        faults.append(f"SECRETS_DIR {str(folder)!r} cannot be listed ({reason}); give a folder that can be read.")
        return []


def _read(path: Path, called: str, faults: list[str]) -> str:
    """Read a small file as UTF-8; one that cannot be read counts as empty."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
        if len(content) <= FILE_LIMIT_BYTES:
            return content.decode("utf-8-sig")
        faults.append(f"{called} is larger than {FILE_LIMIT_BYTES} bytes; put a text of a setting's size there.")
    except OSError as error:
        faults.append(f"{called} cannot be read ({error.strerror}); let this user read it or remove it.")
    except UnicodeDecodeError:
        faults.append(f"{called} is not UTF-8; write it as UTF-8 text.")
    return ""


def _once(known: Iterable[tuple[str, str]], where: str, faults: list[str]) -> dict[str, str]:
    """Drop empty values; the same name twice in one place is a fault, for nobody could tell which of them counts."""
    texts: dict[str, str] = {}
    seen: set[str] = set()
    for name, text in known:
        if name.upper() in seen:
            faults.append(f"{name.upper()} is given twice in {where}; keep one of them.")
        seen.add(name.upper())
        texts |= {name.upper(): text.strip()} if text.strip() else {}
    return texts


def _unknown(name: str, names: frozenset[str], where: str) -> str:
    near = difflib.get_close_matches(name.upper(), sorted(names), n=1, cutoff=0.75)
    if near:
        return f"{_shown(name)} in {where} is not a setting; did you mean {near[0]}? Rename it."
    return f"{_shown(name)} in {where} is not a setting; remove it, or look its name up in the README."


def _shown(name: str) -> str:
    return name if _SHOWABLE.fullmatch(name) else "A name"


def _slip_of(name: str, names: frozenset[str]) -> str | None:
    """Return the setting that a name is one slip away from."""
    return next(
        (known for known in sorted(names) if len(known) >= SLIP_LENGTH and _one_slip(name.upper(), known)), None
    )


def _one_slip(given: str, meant: str) -> bool:
    """Tell whether one letter was lost, added or changed, or two swapped (Damerau-Levenshtein distance 1)."""
    given, meant = _without_common_start(given, meant)
    given, meant = _without_common_start(given[::-1], meant[::-1])
    return max(len(given), len(meant)) == 1 or (len(given) == 2 and given == meant[::-1])


def _without_common_start(one: str, other: str) -> tuple[str, str]:
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return one[same:], other[same:]
