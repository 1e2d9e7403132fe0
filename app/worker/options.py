"""How a worker works."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.retention import Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker works. `name` stands in leases and in the history, and is the worker's alone."""

    name: str
    artifacts_dir: Path
    concurrency: int
    lease_seconds: float
    poll_seconds: float
    grace_seconds: float
    retention: Retention
