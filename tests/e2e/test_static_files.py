"""Static files of a client service, through the gateway: what a browser is told of them, and what nobody gets."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.system import RunningSystem, running

BINARY = bytes(range(256))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pages", tmp_path_factory.mktemp("static") / "pages") as pages:
        yield pages


@pytest.fixture(scope="module")
def http(pages: RunningSystem) -> Iterator[httpx.Client]:
    with pages.client() as http:
        yield http


def test_a_page_names_files_by_their_content_and_they_may_be_kept_for_ever(pages: RunningSystem, http: httpx.Client) -> None:
    css, svg = re.findall(r'"(/files/[^"]+)"', http.get("/").text)
    style, picture = http.get(css), http.get(svg)

    assert re.fullmatch(r"/files/site\.[0-9a-f]{12}\.css", css)
    assert re.fullmatch(r"/files/deep/dot\.[0-9a-f]{12}\.svg", svg)
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert picture.headers["content-type"].startswith("image/svg+xml")
    for one in (style, picture):
        assert one.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert one.headers["x-content-type-options"] == "nosniff"
    assert style.text == (pages.folder / "services/leaves/leaves/files/site.css").read_text()


@pytest.mark.parametrize("path", ["/files/site.css", "/files/site.000000000000.css"])
def test_without_its_digest_or_with_another_a_browser_asks_each_time(http: httpx.Client, path: str) -> None:
    answer = http.get(path)

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, no-cache")


@pytest.mark.parametrize("takes", ["identity", "gzip"])
def test_who_has_it_is_told_so(http: httpx.Client, takes: str) -> None:
    """Also with the weak tag of a compressed answer."""
    tag = http.get("/files/site.css", headers={"accept-encoding": takes}).headers["etag"]
    again = http.get("/files/site.css", headers={"accept-encoding": takes, "if-none-match": f'"x", {tag}'})
    other = http.get("/files/site.css", headers={"if-none-match": '"x"'})

    assert tag.startswith("W/" if takes == "gzip" else '"')
    assert (again.status_code, again.content, other.status_code) == (304, b"", 200)


def test_head_has_the_headers_alone(http: httpx.Client) -> None:
    answer = http.head("/files/data.bin")

    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["content-length"], answer.headers["content-type"]) == ("256", "application/octet-stream")


@pytest.mark.parametrize(
    ("wanted", "status", "body", "told"),
    [
        ("bytes=0-3", 206, BINARY[:4], "bytes 0-3/256"),
        ("bytes=250-", 206, BINARY[250:], "bytes 250-255/256"),
        ("bytes=-2", 206, BINARY[-2:], "bytes 254-255/256"),
        ("bytes=300-", 416, None, "bytes */256"),
    ],
)
def test_a_part_of_a_file(http: httpx.Client, wanted: str, status: int, body: bytes | None, told: str) -> None:
    answer = http.get("/files/data.bin", headers={"range": wanted})

    assert (answer.status_code, answer.headers["content-range"].replace("*/", "bytes */")[-len(told) :]) == (status, told)
    assert body is None or answer.content == body


@pytest.mark.parametrize(
    "path",
    [
        "/files/",
        "/files/deep",
        "/files/deep/",
        "/files/.hidden",
        "/files/nothing.css",
        "/files/../service.py",
        "/files/%2e%2e/service.py",
        "/files/..%2fservice.py",
        "/files/deep/..%5c..%5cservice.py",
        "/files/%00",
        "/files//etc/passwd",
        "/files/..;/service.py",
    ],
)
def test_nothing_else_is_given_out_and_no_folder_is_listed(pages: RunningSystem, path: str) -> None:
    """Sent as it is: a client of ours would tidy it up."""
    port = int(pages.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert answer.split()[1] in (b"400", b"404"), answer
    assert b"Service(" not in answer
    assert b"secret" not in answer


def test_it_takes_no_other_method(http: httpx.Client) -> None:
    answer = http.post("/files/site.css")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_a_folder_that_is_not_there_is_a_mistake_with_its_line(tmp_path: Path) -> None:
    from atoll import Service
    from atoll.errors import SystemMistake

    with pytest.raises(SystemMistake, match=r"nowhere is no folder") as refused:
        Service("site", database=None).static("/files", "nowhere")

    assert "test_static_files.py:" in refused.value.where
