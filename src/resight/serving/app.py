"""A served run as an ASGI app: the routes behind the limits behind the guard."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from resight.serving.api import add_api
from resight.serving.guard import Guard
from resight.serving.limits import Limits
from resight.serving.lines import Line, refusal
from resight.serving.pages import add_pages
from resight.serving.served import Served
from resight.version import __version__


def make_app(served: Served, host: str) -> ASGIApp:
    """host: that the server listens at."""
    app = FastAPI(
        title="Resight",
        version=__version__,
        description="What a trained net says of images.",
        docs_url=None,
        redoc_url=None,
        default_response_class=Line,
    )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    add_api(app, served)
    add_pages(app, served)
    return Guard(Limits(app), host)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return refusal(422, f"{first['loc'][-1]}: {first['msg']}")
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail), **dict(error.headers or {}))
