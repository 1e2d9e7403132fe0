"""A pipeline: the ordered stages that every task goes through, and the model that its payload must fit."""

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from app.domain.pipeline import PipelineShape
from app.domain.pointers import json_pointer
from app.errors import Invalid
from app.pipelines.stage import Stage

FAULT_LIMIT = 100
"""How many bad fields of a payload are listed one by one."""

STAGE_LIMIT = 100
"""How many stages a pipeline may have."""


class Pipeline:
    """The ordered stages of every task; with a payload model, a create whose payload does not fit it is refused."""

    def __init__(self, stages: Sequence[Stage], *, payload: type[BaseModel] | None = None) -> None:
        if not 1 <= len(stages) <= STAGE_LIMIT:
            raise ValueError(f"a pipeline has 1 to {STAGE_LIMIT} stages")
        self.stages = tuple(stages)
        self.payload_model = payload
        self._by_name = {stage.name: stage for stage in self.stages}
        if len(self._by_name) != len(self.stages):
            raise ValueError("two stages of a pipeline cannot have the same name")
        self.shape = PipelineShape(
            stages=tuple(self._by_name), side_effects=frozenset(stage.name for stage in stages if stage.side_effect)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names in their order."""
        return self.shape.stages

    @property
    def first(self) -> str:
        """The name of the stage where every task begins."""
        return self.stages[0].name

    def stage(self, name: str) -> Stage:
        """Return the stage of that name; KeyError if there is none."""
        return self._by_name[name]

    def after(self, name: str, *, done: Collection[str] = ()) -> str | None:
        """Return the name of the stage that follows; None after the last. Stages that are `done` are passed over.

        Raises KeyError if there is no stage of that name.
        """
        following = self.stages[self.stages.index(self._by_name[name]) + 1 :]
        return next((stage.name for stage in following if stage.name not in done), None)

    def check_payload(self, payload: dict[str, Any]) -> None:
        """Raise Invalid, with a pointer for each bad field, unless the payload fits the model."""
        if self.payload_model is None:
            return
        try:
            self.payload_model.model_validate(payload)
        except ValidationError as error:
            raise Invalid(_faults(error)) from None

    def read_payload(self, payload: dict[str, Any]) -> Any:
        """Return the payload as a handler sees it: the model made from it, or the mapping itself."""
        return payload if self.payload_model is None else self.payload_model.model_validate(payload)


def _faults(error: ValidationError) -> list[tuple[str, str]]:
    if error.error_count() > FAULT_LIMIT:
        return [("/payload", f"has {error.error_count()} faults, more than the {FAULT_LIMIT} that would be listed")]
    return [(json_pointer("payload", *fault["loc"]), fault["msg"]) for fault in error.errors(**_TERSE)]


_TERSE: Any = {"include_url": False, "include_input": False, "include_context": False}
