"""Dead letters: what ended for good, grouped by what went wrong, and their rescue (design §6)."""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp
from app.domain.pipeline import PipelineShape
from app.errors import Conflict, Invalid, SideEffectsUnconfirmed, StageGone

PATTERN_LIMIT = 300
"""Characters of a normalised message."""

_VARIABLE = (
    (re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"https?://[^\s'\"`]+"), "<url>"),
    (re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<address>"),
    (re.compile(r"(?<!\w)b?'(?:[^'\n]|(?<=\w)'(?=\w))*'|\"[^\"\n]*\"|`[^`\n]*`"), "<text>"),
    (re.compile(r"(?<!\w)/(?:[^\s/]+/)*[^\s/]+"), "<path>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b"), "<hex>"),
    (re.compile(r"\b[A-Z]{1,6}-?\d+\b|\d+(?:[.,]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What groups like failures: the name of the group, and the message with all that varies taken out."""

    name: str
    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task whose pipeline ended in failure; it leaves only by rescue."""

    task_id: str
    stage: str
    error_kind: str
    error_message: str
    signature: Signature
    died_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterGroup:
    """Dead letters of one signature: how many, since when and until when, and the newest task as a sample."""

    count: int
    first_seen: Timestamp
    last_seen: Timestamp
    sample: DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters are meant; None filters nothing."""

    stage: str | None = None
    error_kind: str | None = None
    signature: str | None = None


class RescueStatus(StrEnum):
    """Where a rescue of many dead letters stands."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueTerms:
    """How dead letters come back: at their own stage or at an earlier one, and whether side effects may repeat."""

    from_stage: str | None = None
    confirm_side_effects: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescue:
    """The wish to rescue all dead letters that pass a filter and had died when it was made, carried out by workers.

    `matched` were counted when the wish was made; `skipped` could not be rescued under its terms when their turn came.
    """

    id: str
    created_by: str
    created_at: Timestamp
    reason: str
    wanted: DeadLetterFilter
    terms: RescueTerms
    status: RescueStatus
    matched: int
    rescued: int
    skipped: int
    last_task_id: str
    ended_at: Timestamp | None


def signature(stage: str, error_kind: str, message: str) -> Signature:
    """Return the group of a failure; numbers, ids, times, addresses, paths and quoted texts tell no groups apart."""
    pattern = message[: 4 * PATTERN_LIMIT]
    for variable, name in _VARIABLE:
        pattern = variable.sub(name, pattern)
    pattern = pattern.strip()[:PATTERN_LIMIT]
    digest = hashlib.sha256(f"{stage}\n{error_kind}\n{pattern}".encode()).hexdigest()
    return Signature(name=digest[:16], pattern=pattern)


def stages_to_run_again(shape: PipelineShape, *, stage: str, from_stage: str | None) -> tuple[str, ...]:
    """Return the stages that a rescue may run again, in their order: from `from_stage` to the one where the task died.

    If the pipeline has lost that one, `from_stage` must be named, and all stages from there on may run again. Raises
    StageGone if it is not, Invalid if there is no `from_stage`, Conflict if it lies behind where the task died.
    """
    if from_stage is not None and from_stage not in shape.stages:
        raise Invalid([("/from_stage", f"the pipeline has no such stage; it has {', '.join(shape.stages)}")])
    if stage not in shape.stages and from_stage is None:
        raise StageGone(f"The pipeline no longer has the stage {stage}; bring it back, or name another as from_stage.")
    first = shape.stages.index(from_stage or stage)
    last = shape.stages.index(stage) if stage in shape.stages else len(shape.stages) - 1
    if first > last:
        raise Conflict(f"Stage {from_stage} comes after {stage}, where the task died; a rescue skips no stage.")
    return shape.stages[first : last + 1]


def check_side_effects(shape: PipelineShape, stages: tuple[str, ...], terms: RescueTerms) -> None:
    """Raise SideEffectsUnconfirmed if a stage would act on the world a second time and nobody has confirmed it."""
    repeated = [stage for stage in stages if stage in shape.side_effects]
    if repeated and not terms.confirm_side_effects:
        raise SideEffectsUnconfirmed(
            f"This runs {', '.join(repeated)} again, which acts on the world outside; look whether it has done so "
            "already, then send confirm_side_effects: true."
        )
