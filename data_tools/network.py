"""Which addresses may be fetched from: public ones, unless the user says otherwise.

A list of recordings may come from anywhere, and an address in it, or a redirect, may point into the user's own
network. Checking a name before it is fetched does not help: it may resolve to something else a moment later. So the
check is on the addresses that are about to be connected to, where Python resolves names.
"""

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies

from sashimi.errors import UserError

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
PORTS = {"http": 80, "https": 443}
_resolve = socket.getaddrinfo
_lock = threading.Lock()
_lists: list[list["Refused"]] = []  # one for every `public_only` that is open


class Refused(UserError, OSError):
    """A connection to an address that is not public. An OSError too, as the libraries that resolve names expect."""


def shown(url: str) -> str:
    """A URL fit for a message or a log: without user name, password, query and fragment, where secrets are."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        where = host if parts.port is None else f"{host}:{parts.port}"
    except ValueError:
        return "(an address that cannot be read)"
    hidden = "?..." if parts.query else ""
    text = urlunsplit((parts.scheme, where, parts.path, "", "")) + hidden
    return "".join(c if c.isprintable() else "?" for c in text)


def check_url(url: str, allow_local: bool) -> None:
    """Raises UserError for what is not http or https, has no host, or names a local address literally."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UserError(f"{shown(url)} is no address; it should look like https://HOST/PATH") from None
    if parts.scheme.lower() not in PORTS:
        raise UserError(f"{shown(url)}: only http:// and https:// addresses can be downloaded")
    if not host:
        raise UserError(f"{shown(url)} names no host; it should look like https://HOST/PATH")
    if allow_local:
        return
    # Through a proxy nothing is resolved here, so what can be told from the text alone is told from it.
    literal = _literal(host)
    if host.rstrip(".").endswith((".localhost", ".local", ".internal")) or host.rstrip(".") == "localhost":
        raise refusal(host, "this computer or the local network")
    if literal is not None and not is_public(literal):
        raise refusal(host, literal)


def refusal(host: str, address: str) -> Refused:
    where = address if host == address else f"{host} ({address})"
    return Refused(f"{where} is not a public address; add --allow-local if you mean to download from it")


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet.

    Private, loopback, link-local (cloud metadata among them), shared (100.64/10), multicast and reserved addresses
    are not, nor is an IPv6 address that carries an IPv4 address of those kinds.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.is_site_local or (ip.sixtofour is not None and not is_public(str(ip.sixtofour))):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _literal(host: str) -> str | None:
    """The address that a host is in numbers, in any of the ways C libraries take: 127.1, 0x7f.1, 2130706433."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


@contextmanager
def public_only(allow_local: bool) -> Iterator[list[Refused]]:
    """For the block, this process resolves no name to an address that is not public, unless `allow_local`.

    Gives the list of what was refused so far, for callers of libraries that swallow errors. What leaves the block
    because of a refusal leaves it as that refusal, however a library has wrapped it. The proxies of the environment
    are allowed, at their ports; what a proxy fetches for us it resolves by itself.

    It covers all that resolves through Python's `socket.getaddrinfo`, in every thread; blocks may be nested and may
    overlap. Programs started in the block and libraries that connect in C or Rust are not covered.
    """
    refused: list[Refused] = []
    if allow_local:
        yield refused
        return
    with _lock:
        _lists.append(refused)
        if len(_lists) == 1:
            socket.getaddrinfo = _checked
    try:
        yield refused
    except Exception as error:
        reason = refused_in(error)
        if reason is None or reason is error:
            raise
        raise reason from None
    finally:
        with _lock:
            _lists[:] = [other for other in _lists if other is not refused]
            if not _lists:
                socket.getaddrinfo = _resolve


def _checked(host: Any, port: Any, *args: Any, **options: Any) -> Any:
    """socket.getaddrinfo, raising Refused where any of the addresses is not public."""
    found = _resolve(host, port, *args, **options)
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if (name.lower(), str(port)) not in _proxies():
        for *_, address in found:
            if not is_public(str(address[0])):
                error = refusal(name, str(address[0]))
                with _lock:
                    for refused in _lists:
                        refused.append(error)
                raise error
    return found


def refused_in(error: BaseException) -> Refused | None:
    """The refusal that an error comes from, however it was wrapped; None where there is none."""
    waiting, seen = [error], set[int]()
    while waiting:
        e = waiting.pop()
        if isinstance(e, Refused):
            return e
        if id(e) in seen:
            continue
        seen.add(id(e))
        within = [e.__cause__, e.__context__, getattr(e, "reason", None), getattr(e, "cause", None), *e.args]
        waiting += [x for x in within if isinstance(x, BaseException)]
    return None


def _proxies() -> set[tuple[str, str]]:
    """Host and port of every proxy of the environment."""
    found = set()
    for scheme, proxy in getproxies().items():
        if scheme == "no":
            continue
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            port = parts.port or PORTS.get(parts.scheme, 1080)
        except ValueError:
            continue
        if parts.hostname:
            found.add((parts.hostname, str(port)))
    return found
