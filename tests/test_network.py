"""Which addresses may be fetched from."""

import socket
import threading
import urllib.request
from collections.abc import Callable

import httpx
import pytest
from servers import Page, serving

from data_tools import network
from data_tools.network import Refused, check_url, is_public, public_only, refused_in, shown
from sashimi.errors import UserError

LOCAL = [
    "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", LOCAL)
def test_local_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.1", "2130706433", "0x7f.1", "017700000001", "0", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST.",
     "a.localhost", "printer.local", "metadata.google.internal", "169.254.169.254", "[fe80::1%25eth0]"],
)  # fmt: skip
def test_literal_local_hosts_are_refused_unless_allowed(host: str) -> None:
    with pytest.raises(UserError, match="--allow-local"):
        check_url(f"http://{host}:8000/a.wav", False)
    check_url(f"http://{host}:8000/a.wav", True)


@pytest.mark.parametrize("url", ["http://8.8.8.8/a.wav", "https://example.org/a.wav", "HTTPS://EXAMPLE.org"])
def test_public_urls_pass(url: str) -> None:
    check_url(url, False)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a.wav", "javascript:alert(1)", "a.wav", "//example.org/a", "http://",
     "http:///a.wav", "http://example.org:99999/", "http://[::1/", ""],
)  # fmt: skip
@pytest.mark.parametrize("allow_local", [True, False])
def test_what_is_no_web_address(url: str, allow_local: bool) -> None:
    with pytest.raises(UserError):
        check_url(url, allow_local)


def test_secrets_are_not_shown() -> None:
    secret = "http://ann:pa55@10.0.0.1:81/a.wav?token=t0ken#frag"
    assert shown(secret) == "http://10.0.0.1:81/a.wav?..."
    with pytest.raises(UserError) as refused:
        check_url(secret, False)
    with pytest.raises(UserError) as wrong:
        check_url("gopher" + secret[4:], False)
    for error in (refused, wrong):
        assert not any(word in str(error.value) for word in ("ann", "pa55", "t0ken", "frag"))


def test_nothing_for_the_terminal_is_shown() -> None:
    assert "\x1b" not in shown("http://example.org/\x1b[2Ja.wav")


def by_httpx(url: str) -> bytes:
    return httpx.get(url).content


def by_urllib(url: str) -> bytes:
    return urllib.request.urlopen(url).read()


@pytest.mark.parametrize("get", [by_httpx, by_urllib])
def test_no_library_connects_to_what_is_local(get: Callable[[str], bytes]) -> None:
    with serving({"/a": Page(b"secret")}) as server:
        with pytest.raises(UserError, match=r"127\.0\.0\.1.*--allow-local"), public_only(False):
            get(f"{server.url}/a")
        assert server.log == []
        with public_only(True):
            assert get(f"{server.url}/a") == b"secret"
        assert get(f"{server.url}/a") == b"secret"  # nothing stays refused


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Every name resolves to the next of the answers; gives the names that were asked for."""
    asked, left, resolve = [], list(answers), network._resolve

    def fake(host: str, *args: object, **options: object) -> object:
        asked.append(host)
        return resolve(left.pop(0) if len(left) > 1 else left[0], *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(network, "_resolve", fake)
    return asked


def test_a_name_that_changes_its_mind_is_refused_when_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "8.8.8.8", "10.0.0.1")
    with public_only(False):
        assert socket.getaddrinfo("rebind.example", 80)[0][4][0] == "8.8.8.8"
        with pytest.raises(Refused, match=r"rebind.example \(10\.0\.0\.1\)"):
            socket.getaddrinfo("rebind.example", 80)
    assert asked == ["rebind.example"] * 2


def test_the_refusals_are_listed_for_those_who_swallow_errors() -> None:
    with public_only(False) as refused:
        with pytest.raises(httpx.ConnectError) as wrapped:
            by_httpx("http://127.0.0.1:9/")
        assert refused_in(wrapped.value) is refused[0]
    assert len(refused) == 1
    assert refused_in(ValueError("another")) is None


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(KeyError), public_only(False):
        raise KeyError("a")


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_may_be_local(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving({"http://example.org/a": Page(b"through the proxy")}) as server:
        monkeypatch.setenv(variable, server.url)
        with public_only(False):
            assert by_httpx("http://example.org/a") == b"through the proxy"
            port = server.url.rpartition(":")[2]
            with pytest.raises(Refused):
                socket.getaddrinfo("127.0.0.1", int(port) + 1)


def test_blocks_may_overlap_and_leave_no_trace() -> None:
    before, inside, done = socket.getaddrinfo, threading.Event(), threading.Event()

    def other() -> None:
        with public_only(False):
            inside.set()
            done.wait(5)

    thread = threading.Thread(target=other)
    with public_only(False):
        thread.start()
        assert inside.wait(5)
    with pytest.raises(Refused):  # the other block is still open
        socket.getaddrinfo("127.0.0.1", 80)
    done.set()
    thread.join()
    assert socket.getaddrinfo is before
