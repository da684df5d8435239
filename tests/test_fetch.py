"""Downloads of one file from servers that misbehave."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import Page, Server, busy, serving

from data_tools import fetch as module
from data_tools import network
from data_tools.fetch import Fetched, FetchError, TooLarge, WebPage, fetch, file_name, retry_after, safe_name
from sashimi.errors import UserError

BODY = bytes(range(256)) * 1200  # 307,200 bytes
HALF = 150_000
Call = Callable[..., Fetched]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/a.wav": Page(BODY, "audio/wav")}) as running:
        yield running


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def get(tmp_path: Path, slept: list[float]) -> Call:
    def call(url: str, **changes: Any) -> Fetched:
        settings: dict[str, Any] = {"allow_local": True, "max_bytes": 10**7, "report": lambda done, total: None}
        return fetch(url, tmp_path, **{**settings, "sleep": slept.append, **changes})

    return call


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def part(folder: Path) -> Path:
    return next(folder.glob(".*.part"))


# --- whole files --------------------------------------------------------------------------------------


def test_a_file_arrives_whole_and_alone(server: Server, get: Call, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    found = get(f"{server.url}/a.wav", report=lambda done, total: told.append((done, total)))
    assert found == Fetched(tmp_path / "a.wav", f"{server.url}/a.wav", "audio/wav", len(BODY))
    assert found.path.read_bytes() == BODY
    assert left(tmp_path) == ["a.wav"]
    assert told[0] == (0, len(BODY))
    assert told[-1] == (len(BODY), len(BODY))
    assert told == sorted(told)


def test_without_a_length(server: Server, get: Call) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", chunked=True)
    told: list[int | None] = []
    assert get(f"{server.url}/a.wav", report=lambda done, total: told.append(total)).path.read_bytes() == BODY
    assert set(told) == {None}


def test_the_same_file_is_kept_once_and_another_beside_it(server: Server, get: Call, tmp_path: Path) -> None:
    server.pages["/other/a.wav"] = Page(BODY[::-1], "audio/wav")
    first, again = get(f"{server.url}/a.wav"), get(f"{server.url}/a.wav")
    other = get(f"{server.url}/other/a.wav")
    assert first.path == again.path
    assert first.path.read_bytes() == BODY
    assert other.path.read_bytes() == BODY[::-1]
    assert len(left(tmp_path)) == 2


# --- broken off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("modified", [None, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_connection_that_breaks_is_resumed(server: Server, get: Call, modified: str | None) -> None:
    page = server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF], last_modified=modified)
    page.etag = 'W/"weak"' if modified else None  # which must not be used
    told: list[int] = []
    found = get(f"{server.url}/a.wav", report=lambda done, total: told.append(done))
    assert found.path.read_bytes() == BODY
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert server.log[1].headers["if-range"] == (modified or page.tag)
    assert told == sorted(told)


def test_a_later_run_goes_on(server: Server, get: Call, tmp_path: Path) -> None:
    page = server.pages["/a.wav"] = Page(BODY, "audio/wav", cut_always=HALF)
    with pytest.raises(FetchError, match="tried 1 times"):
        get(f"{server.url}/a.wav", retries=0)
    assert part(tmp_path).stat().st_size == HALF
    page.cut_always = None
    assert get(f"{server.url}/a.wav").path.read_bytes() == BODY
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert left(tmp_path) == ["a.wav"]


def test_it_starts_over_when_the_server_has_another_file(server: Server, get: Call) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF])
    with pytest.raises(FetchError):
        get(f"{server.url}/a.wav", retries=0)
    server.pages["/a.wav"] = Page(BODY[::-1], "audio/wav")
    assert get(f"{server.url}/a.wav").path.read_bytes() == BODY[::-1]
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_it_starts_over_when_if_range_is_ignored_and_the_tag_is_another(server: Server, get: Call) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF])
    with pytest.raises(FetchError):
        get(f"{server.url}/a.wav", retries=0)
    rest = {"Content-Range": f"bytes {HALF}-{len(BODY) - 1}/{len(BODY)}", "ETag": '"another"'}
    wrong = Page(bytes(len(BODY) - HALF), "audio/wav", status=206, headers=rest)
    new = Page(BODY[::-1], "audio/wav", etag='"another"')
    server.pages["/a.wav"] = lambda request: wrong if "range" in request.headers else new
    assert get(f"{server.url}/a.wav").path.read_bytes() == BODY[::-1]


@pytest.mark.parametrize("changes", [{"ranges": False}, {"etag": ""}])
def test_it_starts_over_where_there_are_no_ranges_or_no_tag(server: Server, get: Call, changes: dict[str, Any]) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF], **changes)
    assert get(f"{server.url}/a.wav").path.read_bytes() == BODY


def test_a_part_that_is_whole_or_too_long_becomes_the_file(server: Server, get: Call, tmp_path: Path) -> None:
    for extra in (b"", b"more"):
        server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF])
        with pytest.raises(FetchError):
            get(f"{server.url}/a.wav", retries=0)
        part(tmp_path).write_bytes(BODY + extra)  # killed between the last byte and the new name
        found = get(f"{server.url}/a.wav")
        assert found.path.read_bytes() == BODY
        found.path.unlink()


def test_a_damaged_note_is_no_note(server: Server, get: Call, tmp_path: Path) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF])
    with pytest.raises(FetchError):
        get(f"{server.url}/a.wav", retries=0)
    next(tmp_path.glob(".*.json")).write_text('{"validator": ')
    assert get(f"{server.url}/a.wav").path.read_bytes() == BODY
    assert server.ranges() == [None, None]


def test_a_body_cut_short_is_never_whole(server: Server, get: Call, slept: list[float], tmp_path: Path) -> None:
    for page in (Page(BODY, cut_always=HALF, ranges=False), Page(BODY, cut_always=HALF, chunked=True, ranges=False)):
        server.pages["/a.wav"] = page
        with pytest.raises(FetchError, match=r"a\.wav: the connection broke .* tried 3 times"):
            get(f"{server.url}/a.wav", retries=2)
    assert not [name for name in left(tmp_path) if not name.startswith(".")]
    assert len(slept) == 4


def test_progress_forgives_failures(server: Server, get: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 10_000)
    server.pages["/a.wav"] = Page(BODY, "audio/wav", cut_always=20_000)
    assert get(f"{server.url}/a.wav", retries=1).path.read_bytes() == BODY
    assert len(server.log) == 16


# --- the server says no -------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "words"), [(404, "nothing at this"), (403, "does not allow"), (410, "down")])
def test_final_answers_are_not_asked_for_again(server: Server, get: Call, status: int, words: str) -> None:
    server.pages["/a.wav"] = Page(status=status)
    with pytest.raises(FetchError, match=words) as error:
        get(f"{server.url}/a.wav")
    assert error.value.status == status
    assert len(server.log) == 1


def test_retry_after_is_kept_and_capped(server: Server, get: Call, slept: list[float]) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.pages["/a.wav"] = Page(BODY, "audio/wav", first=busy("7", then, "86400", "soon"))
    assert get(f"{server.url}/a.wav").path.read_bytes() == BODY
    assert slept[0] == 7
    assert 90 < slept[1] <= 100
    assert slept[2] == module.LONGEST_WAIT
    assert 8 <= slept[3] <= 16


def test_back_off_grows(server: Server, get: Call, slept: list[float]) -> None:
    server.pages["/a.wav"] = Page(status=503)
    with pytest.raises(FetchError, match=r"503.*tried 6 times"):
        get(f"{server.url}/a.wav")
    assert all(2**n / 2 <= seconds <= 2**n for n, seconds in enumerate(slept, 1))
    assert len(server.log) == 6


@pytest.mark.parametrize("value", ["", "soon", "-1", "Wed, 99 Oct 2015"])
def test_retry_after_that_means_nothing(value: str) -> None:
    assert retry_after({"retry-after": value}) is None


def test_no_connection(get: Call, slept: list[float]) -> None:
    with serving() as gone:
        pass
    with pytest.raises(FetchError, match="connection broke"):
        get(f"{gone.url}/a.wav", retries=2)
    assert len(slept) == 2


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_web_page_is_no_recording(server: Server, get: Call, kind: str, tmp_path: Path) -> None:
    server.pages["/a.wav"] = Page(b"<html>", kind)
    with pytest.raises(WebPage, match="this is a web page"):
        get(f"{server.url}/a.wav")
    assert left(tmp_path) == []


def test_a_web_page_that_calls_itself_a_recording(server: Server, get: Call, tmp_path: Path) -> None:
    server.pages["/a.wav"] = Page(b"\n <!DOCTYPE HTML><html>", "audio/wav")
    with pytest.raises(WebPage):
        get(f"{server.url}/a.wav")
    assert left(tmp_path) == []


def test_an_empty_file_and_a_compressed_one(server: Server, get: Call) -> None:
    server.pages["/a.wav"] = Page(b"", "audio/wav")
    with pytest.raises(FetchError, match="empty"):
        get(f"{server.url}/a.wav")
    server.pages["/a.wav"] = Page(BODY, "audio/wav", headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="compressed"):
        get(f"{server.url}/a.wav")
    assert server.log[-1].headers["accept-encoding"] == "identity"


# --- redirects ----------------------------------------------------------------------------------------


def test_redirects_are_followed(server: Server, get: Call) -> None:
    server.pages["/start?x=1"] = Page(location="next")
    server.pages["/next"] = Page(location=f"{server.url}/a.wav", status=307)
    found = get(f"{server.url}/start?x=1")
    assert found.url == f"{server.url}/a.wav"
    assert found.path.name == "a.wav"


def test_a_redirect_loop_ends(server: Server, get: Call) -> None:
    server.pages["/1"], server.pages["/2"] = Page(location="/2"), Page(location="/1")
    with pytest.raises(FetchError, match="redirects more than 10 times"):
        get(f"{server.url}/1")
    assert len(server.log) == 11


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/a.wav", "http://"])
def test_a_redirect_out_of_the_web(server: Server, get: Call, target: str) -> None:
    server.pages["/1"] = Page(location=target)
    with pytest.raises(UserError):
        get(f"{server.url}/1")


def only_first_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for the internet, and all else is local."""
    monkeypatch.setattr(network, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.parametrize("literal", ["127.0.0.2", "127.2", "2130706434", "inside.test"])
def test_a_redirect_into_the_local_network_is_refused(
    server: Server, get: Call, monkeypatch: pytest.MonkeyPatch, slept: list[float], literal: str
) -> None:
    only_first_is_public(monkeypatch)
    resolve = network._resolve
    monkeypatch.setattr(
        network, "_resolve", lambda host, *a, **o: resolve(host.replace("inside.test", "127.2"), *a, **o)
    )
    with serving({"/a.wav": Page(BODY, "audio/wav")}, host="127.0.0.2") as inside:
        port = inside.url.rpartition(":")[2]
        server.pages["/1"] = Page(location=f"http://{literal}:{port}/a.wav")
        with pytest.raises(UserError, match=rf"{literal}.*--allow-local"):
            get(f"{server.url}/1", allow_local=False)
        assert inside.log == []
        assert slept == []  # nothing to be tried again
        assert get(f"{server.url}/a.wav", allow_local=False).size == len(BODY)
        assert get(f"{server.url}/1", allow_local=True).size == len(BODY)


def test_a_token_goes_no_further_than_its_host(server: Server, get: Call) -> None:
    with serving({"/b.wav": Page(BODY, "audio/wav")}) as other:
        server.pages["/1"] = Page(location="/2")
        server.pages["/2"] = Page(location=f"{other.url}/b.wav")
        get(f"{server.url}/1", headers={"Authorization": "Bearer t0ken"})
        assert [r.headers.get("authorization") for r in server.log] == ["Bearer t0ken"] * 2
        assert "authorization" not in other.log[0].headers


def test_errors_keep_secrets(server: Server, get: Call) -> None:
    secret = server.url.replace("http://", "http://ann:pa55@") + "/missing.wav?sig=t0ken"
    with pytest.raises(FetchError, match=r"/missing\.wav\?\.\.\.: there is nothing") as error:
        get(secret)
    assert not any(word in str(error.value) for word in ("ann", "pa55", "t0ken"))


# --- limits -------------------------------------------------------------------------------------------


def test_too_large_by_its_length_is_not_begun(server: Server, get: Call, tmp_path: Path) -> None:
    told: list[int] = []
    with pytest.raises(TooLarge, match="307,200 bytes are more than the limit of 1,000 bytes"):
        get(f"{server.url}/a.wav", max_bytes=1000, report=lambda done, total: told.append(done))
    assert told == []
    assert left(tmp_path) == []


def test_too_large_without_a_length_is_cut_off(server: Server, get: Call, tmp_path: Path) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", chunked=True)
    with pytest.raises(TooLarge):
        get(f"{server.url}/a.wav", max_bytes=100_000)
    assert left(tmp_path) == []


def test_the_disk_is_not_filled(server: Server, get: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9 + len(BODY) - 1))
    with pytest.raises(FetchError, match="no space left"):
        get(f"{server.url}/a.wav")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9 + len(BODY)))
    assert get(f"{server.url}/a.wav").size == len(BODY)


def test_the_rate_is_limited(server: Server, get: Call, slept: list[float]) -> None:
    get(f"{server.url}/a.wav", limit_rate=1000.0)
    assert len(BODY) / 1000 - 10 < sum(slept) <= len(BODY) / 1000


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="a b.mp3"', "a b.mp3"),
        ("attachment; filename=\"cancao.mp3\"; filename*=UTF-8''can%C3%A7%C3%A3o.mp3", "canção.mp3"),
        ('attachment; filename="../../etc/x.mp3"', "x.mp3"),
        ('attachment; filename="..\\\\..\\\\x.mp3"', "x.mp3"),
        ('attachment; filename="/etc/passwd"', "passwd.wav"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx.mp3", "x.mp3"),
        ("inline", "a.wav"),
        ('attachment; filename=".."', "recording.wav"),
    ],
)
def test_the_servers_name_for_it(server: Server, get: Call, tmp_path: Path, disposition: str, name: str) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", headers={"Content-Disposition": disposition})
    path = get(f"{server.url}/a.wav").path
    assert path.parent == tmp_path
    assert path.name == name
    assert path.read_bytes() == BODY


@pytest.mark.parametrize(
    ("asked", "final", "kind", "name"),
    [
        ("http://h/download?id=3", "http://cdn/x/song.flac", "audio/flac", "song.flac"),
        ("http://h/my%20song.mp3", "http://cdn/0a1b2c", "audio/mpeg", "my song.mp3"),
        ("http://h/stream", "http://h/stream", "audio/mpeg", "stream.mp3"),
        ("http://h/set.tar.gz", "http://cdn/blob", "application/octet-stream", "set.tar.gz"),
        ("http://h/stream", "http://h/", "application/octet-stream", "stream"),
        ("http://h/", "http://h/", "audio/wav", "recording.wav"),
    ],
)
def test_a_name_from_the_address(asked: str, final: str, kind: str, name: str) -> None:
    assert file_name(asked, final, {}, kind) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b\\c.wav", "c.wav"), ("..", "recording"), ("", "recording"), (".hidden.wav", "hidden.wav"),
        ("CON.wav", "_CON.wav"), ("lpt1", "_lpt1"), ('a:b*"?.wav', "a_b___.wav"), ("a\x00\x1b.wav", "a__.wav"),
        ("cançao\u0303.wav", "cançaõ.wav"), ("x. ", "x"),
    ],
)  # fmt: skip
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_long_names_keep_their_suffix() -> None:
    name = safe_name("ã" * 500 + ".flac")
    assert name.endswith("ã.flac")
    assert len(name.encode()) <= 150


def test_the_note_holds_no_secret(server: Server, get: Call, tmp_path: Path) -> None:
    server.pages["/a.wav"] = Page(BODY, "audio/wav", cut=[HALF])
    with pytest.raises(FetchError):
        get(f"{server.url}/a.wav?sig=t0ken", retries=0, headers={"Authorization": "Bearer s3cret"})
    note = json.loads(next(tmp_path.glob(".*.json")).read_text())
    assert set(note) == {"validator", "total"}
