"""The page at /docs: it loads nothing of another host."""

from __future__ import annotations

import re

import pytest

from serve.api_page import FILES, FOLDER
from tests.serve.client import Client


def test_the_page_and_what_it_loads_come_from_the_service(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert sorted(named) == [
        f"/docs/{name}" for name in ("favicon.png", "start.js", "swagger-ui-bundle.js", "swagger-ui.css")
    ]
    for path in named:
        loaded = client.get(path)
        assert loaded.status_code == 200
        name = path.rpartition("/")[2]
        if name in FILES:
            assert loaded.content == (FOLDER / name).read_bytes()
            assert loaded.headers["content-type"].startswith(FILES[name])
    start = client.get("/docs/start.js").text
    assert "://" not in start
    assert 'url: "/openapi.json"' in start


def test_the_style_loads_nothing_of_another_host() -> None:
    urls = re.findall(r"url\(([^)]{0,8})", (FOLDER / "swagger-ui.css").read_text())
    assert {url.strip("\"'")[:5] for url in urls} <= {"data:"}


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/start.js", "/docs/swagger-ui-bundle.js"])
def test_a_browser_is_told_to_load_and_call_nothing_else(client: Client, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/redoc", "/docs/redoc.standalone.js", "/docs/..%2fapi_page.py", "/docs/oauth2-redirect"]
)
def test_nothing_else_is_there(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_its_files_are_counted_as_the_page(client: Client) -> None:
    client.get("/docs/swagger-ui.css")
    assert 'retain_requests_total{code="200",path="/docs"} 1.0' in client.metrics()
