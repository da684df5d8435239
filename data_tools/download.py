"""Recordings from the net to a data set: YouTube and other sites, links, lists, archives, hub data sets.

    python -m data_tools.download URL LIST.txt "ytsearch5:smooth jazz" hf://datasets/OWNER/NAME FOLDER --out data/NAME

What is given is, in this order: a hub data set or one of the named ones; a search (ytsearchN:WORDS); an address; a list
(.txt: one of all these a line, `#` comments, after an address perhaps a section, as 10:00-1:30:00); a file, an archive
or a folder. An address that a site of yt-dlp's is known for goes to yt-dlp. Any other is asked for what it holds: a
recording or a zip or tar archive is fetched as it is; a page, a feed or a stream goes to yt-dlp, which looks for
recordings in it.

All of it then goes through data_tools.prepare, whose options are offered here too. One data set may be made by several
commands: what was asked for before stays in it and is not fetched again (--replace: only what is named now).
Originals are removed once their chunks are written. Stopped at any moment, the same command goes on, and tries again
what failed. YouTube may need a JavaScript runtime (Deno) and the package yt-dlp-ejs.
Download only what you may use: a warning says where no open licence is stated.
Exit status: 0 if everything was used, 1 if something failed or had to be skipped, 2 if there is no data set.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from data_tools.collect import Download
from data_tools.hub import NAMED
from data_tools.items import Asked, Items, duration, section
from data_tools.settings import GATES, add_settings, settings_from
from data_tools.youtube import Manners
from sashimi.cli import reported_errors
from sashimi.errors import UserError


def _number(units: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.strip().upper())
        if not found or not float(found[1]):
            raise argparse.ArgumentTypeError(f"{text}: write it as {units}")
        return float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[found[2]]

    return parse


def _asking(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("given", nargs="*", metavar="WHAT", help="an address, a list, a search, a file, an archive or a folder")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the data set goes, as data/NAME")
    add(
        "--section", type=_asking(section), action="append", default=[], metavar="FROM-TO",
        help="only this part of every recording named here, as 10:00-1:30:00, or in seconds; several are allowed",
    )  # fmt: skip
    add("--max-duration", type=_asking(duration), metavar="TIME", help="longer recordings are left out")
    add("--max-items", type=int, metavar="N", help="of every list, page, search and playlist at most so many")
    add("--max-disk", type=_number("20G"), metavar="SIZE", help="originals take no more at a time, as 20G")
    add("--keep-original", action="store_true", help="keep what was fetched, in FOLDER/.prepare/download/files")
    add("--replace", action="store_true", help="the data set is to hold only what is named now")
    add("--refresh", action="store_true", help="look again at playlists and pages, and fetch again what was unusable")
    add("--limit-rate", type=_number("500K or 2M"), metavar="RATE", help="bytes a second, as 500K or 2M")
    add("--sleep", type=float, default=2.0, metavar="SECONDS", help="between items, and at most 1 between requests (2)")
    add("--retries", type=int, default=5, metavar="N", help="failures in a row before an item is given up (5)")
    add("--cookies", type=Path, metavar="FILE", help="of a browser, in Netscape's format; for yt-dlp, only read")
    add("--cookies-from-browser", metavar="NAME[:PROFILE]", help="the same from the browser itself")
    add("--allow-local", action="store_true", help="also addresses in this computer and the local network")
    add_settings(parser)
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    items = Items(arguments.out)
    before = {} if arguments.replace else items.inputs()
    named = [NAMED[given] for given in [*before, *arguments.given] if given in NAMED]
    if named:
        # As they were published: split by recording or by their lists, and nothing left out.
        parser.set_defaults(split="recording", trim=False, keep=GATES, shortest=0.1)
        if any(known.split == "lists" for known in named):
            parser.set_defaults(split=None, splits=items.splits)
        arguments = parser.parse_args()
    settings = settings_from(arguments, parser)
    if arguments.max_items is not None and arguments.max_items < 1:
        parser.error("--max-items must be at least 1")
    if not 0 <= arguments.sleep <= 3600:
        parser.error("--sleep must be from 0 to 3600")
    if not 0 <= arguments.retries <= 100:
        parser.error("--retries must be from 0 to 100")
    if arguments.cookies is not None and not arguments.cookies.is_file():
        parser.error(f"there is no file {arguments.cookies} with cookies")
    asked = Asked(tuple(arguments.section), arguments.max_duration, arguments.max_items)
    manners = Manners(
        arguments.allow_local, arguments.sleep, arguments.limit_rate, arguments.retries, arguments.cookies,
        arguments.cookies_from_browser,
    )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with reported_errors():
        try:
            job = Download(
                arguments.out, settings, manners, console, arguments.licence, arguments.max_disk,
                arguments.keep_original, arguments.refresh,
            )  # fmt: skip
            status = job.run(dict.fromkeys(arguments.given, asked), arguments.replace)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            raise
        sys.exit(status)


if __name__ == "__main__":
    main()
