"""A request as it came in: headers, path, query and body, each read strictly."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.types import Receive, Scope

from app.domain.pointers import json_pointer
from app.errors import BadRequest, Invalid, NotFound, PayloadTooLarge, UnsupportedMedia
from app.ids import is_id
from app.web.nesting import check_depth
from app.web.schemas import NoQuery

Model = TypeVar("Model", bound=BaseModel)

QUERY_FIELD_LIMIT = 20
FIELD_LIMIT = 50
"""How many fields a body may have at its top."""

_STAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_JSON = re.compile(r"application/json(\s*;\s*charset=\"?utf-8\"?)?", re.IGNORECASE)


class Incoming:
    """One request with its body. What is malformed raises a Refusal that says what to do."""

    __slots__ = ("_headers", "body", "path_parameters", "query_string")

    def __init__(self, scope: Scope, body: bytes) -> None:
        self._headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        self.path_parameters: dict[str, str] = scope.get("path_params", {})
        self.query_string: bytes = scope["query_string"]
        self.body = body

    def header(self, name: bytes) -> str | None:
        """Return a header that may come once; raises BadRequest if it came twice. `name` is lower case."""
        return single_header(self._headers, name)

    def path_id(self, name: str = "id") -> str:
        """Return an id from the path; what cannot be an id is not there."""
        value = self.path_parameters[name]
        if not is_id(value):
            raise NotFound("There is nothing of this id.")
        return value

    def path_stage(self) -> str:
        """Return a stage's name from the path; what cannot be one is not there."""
        value = self.path_parameters["stage"]
        if not _STAGE.fullmatch(value):
            raise NotFound("There is no such stage.")
        return value

    def query(self, model: type[Model]) -> Model:
        """Read the query string; unknown and repeated fields are refused."""
        try:
            pairs = parse_qsl(
                self.query_string.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(self.query_string),
                max_num_fields=QUERY_FIELD_LIMIT,
                errors="strict",
            )
        except ValueError as error:
            raise BadRequest("The query string cannot be read.") from error
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise BadRequest("A query field came twice.")
        return _validated(model, fields, "query")

    def json(self, model: type[Model]) -> Model:
        """Read the body as JSON that fits the model; what is sent in a body takes no query."""
        if self.query_string:
            self.query(NoQuery)
        content_type = self.header(b"content-type")
        if content_type is None or not _JSON.fullmatch(content_type.strip()):
            raise UnsupportedMedia
        check_depth(self.body)
        try:
            value = from_json(self.body, allow_inf_nan=False)
        except ValueError as error:
            raise BadRequest(f"The body is not JSON: {error}.") from None
        return _validated(model, value, "")


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """Return the whole body; PayloadTooLarge before more than the limit is kept, BadRequest if the caller left."""
    declared = single_header(scope["headers"], b"content-length")
    if declared is not None and (not _LENGTH.fullmatch(declared) or int(declared) > limit_bytes):
        raise PayloadTooLarge(f"The request body may have at most {limit_bytes} bytes.")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The caller left before the body was complete.")
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise PayloadTooLarge(f"The request body may have at most {limit_bytes} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def single_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the value of a header that may come once, or None; BadRequest if it came twice."""
    values = [value for header, value in headers if header == name]
    if len(values) > 1:
        raise BadRequest(f"The header {name.decode()} came twice.")
    return values[0].decode("latin-1") if values else None


def _validated(model: type[Model], value: Any, root: str) -> Model:
    if isinstance(value, dict) and len(value) > FIELD_LIMIT:
        raise Invalid([("", f"has more than {FIELD_LIMIT} fields")])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        steps = [root] if root else []
        raise Invalid([(json_pointer(*steps, *fault["loc"]), fault["msg"]) for fault in details]) from None
