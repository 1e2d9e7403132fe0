"""The configuration: settings and pipeline, and what can be had of the settings when some of them are bad."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from app import settings_sources
from app.cli.examinations.findings import Check, Finding, Level
from app.errors import BadSettings
from app.main import load_pipeline
from app.pipelines import Pipeline
from app.settings import Settings

_MEANT = "Nothing to do if that is meant; otherwise change the setting."


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings to look further with, and the sentences about those that are bad; a bad one has its default here.

    `unusable` names the settings whose text has the wrong shape.
    """

    settings: Settings
    faults: Sequence[str] = ()
    unusable: frozenset[str] = frozenset()


def read(environ: Mapping[str, str], folder: Path) -> Configuration:
    """Read the settings as a process that serves and works would; bad ones do not raise."""
    try:
        return Configuration(settings=Settings.load(environ, folder=folder, needs_pipeline=True))
    except BadSettings as error:
        texts = settings_sources.gather(environ, folder, frozenset(map(str.upper, Settings.model_fields)), [])
        usable = {name.lower(): text for name, text in texts.items() if _is_usable(name.lower(), text)}
        settings = Settings.model_validate(usable)
        rooted = settings.model_copy(update={name: folder / getattr(settings, name) for name in Settings.PATHS})
        unusable = frozenset(name.lower() for name in texts) - usable.keys()
        return Configuration(settings=rooted, faults=error.faults, unusable=unusable)


def examine_settings(configuration: Configuration) -> Iterator[Finding]:
    """Tell every fault of the settings, and what an operator should know about those that are good."""
    settings = configuration.settings
    for sentence in configuration.faults:
        says, _, remedy = sentence.partition("; ")
        yield Finding(Check.SETTINGS, Level.FAULT, says, _begun(remedy or "Give another value."))
    if not configuration.faults:
        yield Finding(
            Check.SETTINGS, Level.OK, f"no fault; APP_ENV is {settings.app_env}, DB_PATH is {settings.db_path}"
        )
    faulty = {sentence.split()[0] for sentence in configuration.faults}
    for sentence in (told for told in settings.warnings() if told.split()[0] not in faulty):
        says, _, remedy = sentence.partition("; ")
        yield Finding(Check.SETTINGS, Level.NOTE, says.removesuffix("."), _begun(remedy or _MEANT))


def import_pipeline(place: str) -> tuple[Pipeline | None, Finding]:
    """Import the pipeline, if it can be imported, and tell how that went."""
    try:
        with redirect_stdout(sys.stderr):  # what a module prints is none of our findings
            pipeline = load_pipeline(place)
    except SystemExit:
        remedy = "Let the module define the pipeline only; what it does beside that belongs elsewhere."
        return None, Finding(Check.PIPELINE, Level.FAULT, f"PIPELINE {place!r} ends the process when imported", remedy)
    except BadSettings as error:
        says, _, looked = str(error).partition(" Looked in ")
        where = f" Looked in {looked}" if looked else ""
        remedy = f"Set PIPELINE to module:attribute of an app.pipelines.Pipeline.{where}"
        return None, Finding(Check.PIPELINE, Level.FAULT, says.removesuffix("."), remedy)
    return pipeline, Finding(Check.PIPELINE, Level.OK, f"{place} has the stages {', '.join(pipeline.names)}")


def _is_usable(name: str, text: str) -> bool:
    try:
        Settings.model_validate({name: text})
    except ValueError:
        return False
    return True


def _begun(remedy: str) -> str:
    """Begin a remedy as a sentence begins, unless a word stands there that is written small."""
    first = remedy.split(maxsplit=1)[0]
    return remedy[0].upper() + remedy[1:] if first.isalpha() and first.islower() else remedy
