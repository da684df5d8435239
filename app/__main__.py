"""The band in the browser: a web page that plays while it generates.

    python -m app [--host 127.0.0.1] [--port 7860] [--share] [--auth USER:PASSWORD]

Only this computer can reach it, unless --host or --share say otherwise; then give it an --auth.
"""

import argparse
import logging
import sys
from pathlib import Path

from sashimi.cli import reported_errors
from sashimi.errors import UserError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 is everywhere (127.0.0.1)")
    add("--port", type=int, default=7860, help="(7860)")
    add("--share", action="store_true", help="a public address, through Gradio's tunnel")
    add("--auth", metavar="USER:PASSWORD", help="whoever comes has to log in")
    add(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a model beside shipped and local ones",
    )
    add("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="local training runs (runs)")
    add("--lyrics-model", metavar="NAME", help="writes lyrics as it is: a hub id, a folder or a .gguf file")
    add("--dir", type=Path, default=Path("samples/app"), metavar="FOLDER", help="where takes lie (samples/app)")
    add("--room", type=float, default=2.0, metavar="GB", help="that takes may have (2)")
    add("--days", type=float, default=7.0, help="that takes stay which are not kept (7)")
    add("--players", type=int, default=2, metavar="N", help="plays at once; others wait (2)")
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.players < 1 or arguments.room <= 0 or arguments.days <= 0:
        parser.error("--players, --room and --days must be above 0")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    with reported_errors():
        try:
            from app.server import run
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "gradio":
                raise
            raise UserError("the web app needs the app extra: pip install -e '.[app]'") from None
        run(arguments)
    sys.exit(0)


if __name__ == "__main__":
    main()
