"""One recording from an address, through data_tools: public addresses only, never more than it may have."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from data_tools.fetch import WebPage, fetch
from data_tools.items import Entry
from data_tools.network import Refused, check_url
from sashimi.errors import UserError

LONGEST = 3 * 3600.0  # seconds of a recording on a site; longer ones are not fetched for their first minutes
RETRIES = 2
TRIES_OF_SECONDS = 5.0  # the user is waiting


def download(url: str, folder: Path, max_bytes: int, report: Callable[[float], None]) -> tuple[Path, str]:
    """The file and its title. report: is told of megabytes that there are.

    Raises UserError, in words for somebody at a web page, for what cannot be had.
    """
    url = url.strip()
    try:
        check_url(url, allow_local=False)
        return _download(url, folder, max_bytes, report)
    except Refused as error:
        host = str(error).split(" is not a public address")[0]
        raise UserError(f"{host} is not a public address: links may only lead to the public internet") from None
    except ModuleNotFoundError as error:
        raise UserError(f"links need the data extra ({error.name} is missing): pip install -e '.[data]'") from None


def _download(url: str, folder: Path, max_bytes: int, report: Callable[[float], None]) -> tuple[Path, str]:
    from rich.console import Console

    from data_tools.youtube import Manners, Sites

    sites = Sites(folder, Manners(retries=RETRIES, sleep=0), Console(quiet=True))
    if not sites.knows(url):
        try:
            found = fetch(
                url, folder, allow_local=False, report=lambda have, total: report(have / 1e6), max_bytes=max_bytes,
                retries=RETRIES, sleep=_short,
            )  # fmt: skip
            name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
            return found.path, name or found.path.name
        except WebPage:
            pass
    entry = Entry(url)
    info = sites.look(entry, most=1)
    if isinstance(info, list):
        if not info:
            raise UserError("there is no recording at this address")
        entry = info[0]
        info = sites.look(entry)
        if isinstance(info, list):
            raise UserError("this is a list of lists; give the address of one recording")

    def gate(about: dict[str, Any]) -> str | None:
        if about.get("live"):
            return "this is a live broadcast; give the address of a recording"
        if (about.get("duration") or 0) > LONGEST:
            return f"this recording is longer than {LONGEST / 3600:g} hours; give a shorter one"
        return None

    path, about = sites.get(entry, info, "link", gate, lambda have, total: report(have / 1e6))
    return path, str(about.get("title") or urlsplit(url).hostname)


def _short(seconds: float) -> None:
    time.sleep(min(seconds, TRIES_OF_SECONDS))
