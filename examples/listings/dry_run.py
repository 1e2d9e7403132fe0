"""A dry run: the stages one after another in this process, without server or database; for tests and first steps."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.pipelines import Context
from examples.listings.pipeline import pipeline

Outputs = dict[str, dict[str, Any]]


def run_stage(folder: Path, payload: dict[str, Any], stage: str, outputs: Mapping[str, dict[str, Any]]) -> Any:
    """Run one stage in the task's folder and return its outputs as a database would hand them on: through JSON."""
    folder.mkdir(exist_ok=True)
    context = Context(
        task_id=folder.name,
        reference=payload["stock_number"],
        stage=stage,
        attempt=1,
        payload=pipeline.read_payload(payload),
        outputs=outputs,
        folder=folder,
        log=logging.getLogger(__name__),
    )
    return json.loads(json.dumps(pipeline.stage(stage).handler(context)))


def run_until(folder: Path, payload: dict[str, Any], last: str = "cleanup") -> Outputs:
    """Run all stages up to and including `last`; return what each handed on. What a stage raises is not caught."""
    outputs: Outputs = {}
    for name in pipeline.names[: pipeline.names.index(last) + 1]:
        outputs[name] = run_stage(folder, payload, name, outputs)
    return outputs
