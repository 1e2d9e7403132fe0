"""The cleanup stage: of the task's folder only those files stay that a stage has recorded as its result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.pipelines import Context


def cleanup(context: Context) -> Mapping[str, Any]:
    """Remove working files and what crashed attempts left behind; hand on the names of what stays."""
    kept = {path for outputs in context.outputs.values() for path in outputs.get("files", {})}
    for path in sorted(context.folder.rglob("*"), reverse=True):
        if path.relative_to(context.folder.parent).as_posix() not in kept:
            _remove(path)
    return {"kept": sorted(kept), "files": {}}


def _remove(path: Path) -> None:
    """Remove a file, or a folder that is empty by now; one that holds a result stays."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
    elif not any(path.iterdir()):
        path.rmdir()
