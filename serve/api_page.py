"""The page that shows and tries the API: Swagger UI from the files of a pinned package, so it needs no network."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

# fastapi-offline's copy of Swagger UI; nothing of its code is used.
FOLDER = Path(str(files("fastapi_offline"))) / "static"
FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon.png": "image/png",
}
# What the page may load and whom it may call: this service alone. Swagger UI styles its parts in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

# `validatorUrl`: else a description at any address but localhost is sent to validator.swagger.io.
START = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


def page(title: str) -> str:
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""


def routes_of_page(title: str) -> APIRouter:
    """GET /docs and the files that it needs."""
    routes = APIRouter(include_in_schema=False)
    content = page(title)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(content, headers=HEADERS)

    @routes.get("/docs/start.js")
    async def start() -> Response:
        return Response(START, media_type="text/javascript", headers=HEADERS)

    @routes.get("/docs/{name}")
    async def file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(FOLDER / name, media_type=FILES[name], headers=HEADERS)

    return routes
