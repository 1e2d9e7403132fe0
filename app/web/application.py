"""The ASGI application: Starlette routes over guarded paths, the answer guard, and the envelope around all."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan

from app.errors import CabinetError, Defect
from app.log import bound
from app.metrics import Metrics
from app.web.cross_origin import ListedOrigins
from app.web.envelope import PROBLEM, TASK_ID, Envelope
from app.web.guard import AnswerGuard, Gatehouse, GuardedPath
from app.web.operations import RouteTable
from app.web.problems import problem


def build(
    table: RouteTable,
    gatehouse: Gatehouse,
    metrics: Metrics,
    *,
    cors_origins: Sequence[str] = (),
    strict_transport: bool = False,
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """Make the application; raises Defect if a route could be reached past the gate.

    Pages of `cors_origins` may call it from a browser; `strict_transport` tells browsers to come by https alone.
    """
    routes = [
        Route(path, endpoint=GuardedPath(operations, gatehouse), methods=list(operations))
        for path, operations in table.by_path.items()
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Envelope, metrics=metrics, strict_transport=strict_transport),
            *([Middleware(ListedOrigins, origins=cors_origins)] if cors_origins else []),
            Middleware(AnswerGuard),
        ],
        exception_handlers={CabinetError: _show, HTTPException: _show},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    check_routes(app.routes)
    return app


def check_routes(routes: Sequence[BaseRoute]) -> None:
    """Raise Defect unless every route leads to a guarded path."""
    for route in routes:
        if not isinstance(route, Route) or not isinstance(route.endpoint, GuardedPath):
            raise Defect(f"The route {getattr(route, 'path', route)} does not pass the gate.")


def _show(request: Request, error: Exception) -> Response:
    request.scope[PROBLEM] = error
    with bound(task=request.scope.get(TASK_ID)):
        return problem(error)
