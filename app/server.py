"""Service, routes and page, put together and served."""

import argparse
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from gradio import Blocks
from rich.console import Console

from app import page
from app.lyrics import Lyrics
from app.models import Models
from app.prompts import Prompts
from app.routes import Routes
from app.service import Service
from app.takes import Takes
from sashimi.config import EngineConfig
from sashimi.errors import UserError


@dataclass
class App:
    """A running app. url: where it is."""

    service: Service
    url: str
    blocks: Blocks

    def close(self) -> None:
        self.service.close()
        self.blocks.close(verbose=False)


def start(
    models: Models,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    room: int = 2 * 10**9,
    days: float = 7.0,
    players: int = 2,
    lyrics: Lyrics | None = None,
) -> App:
    """Serve the app, in threads of its own. port: None for any from 7860 on that is free.

    Raises UserError where there is no model to play, or the port is taken.
    """
    if not models.known():
        raise UserError("there is no checkpoint to play: train one, or name one with --checkpoint FILE")
    # Before Gradio makes its own folder: what browsers send lies with the rest, and goes with it.
    uploads = folder / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.resolve())
    service = Service(models, Takes(folder / "takes", room, days), players)
    prompts = Prompts((folder / "prompts").resolve(), uploads)
    blocks = page.build(service, prompts, lyrics or Lyrics())
    try:
        _, local, public = blocks.queue(default_concurrency_limit=4, max_size=64).launch(
            server_name=host, server_port=port, share=share, auth=auth, prevent_thread_lock=True, quiet=True,
            ssr_mode=False, max_file_size=page.MOST_BYTES, footer_links=[], enable_monitoring=False, pwa=False,
            allowed_paths=[str(prompts.folder)], show_error=True,
            app_kwargs={"routes": Routes(service, prompts).all()}, **page.looks(),
        )  # fmt: skip
    except OSError as error:
        service.close()
        raise UserError(f"port {port} of {host} cannot be used ({error}); choose another --port") from None
    return App(service, public or local, blocks)


def threads(players: int) -> int:
    """Of one player: cores are shared out, for two that wait for each other on one core are slower than one."""
    return max(1, torch.get_num_threads() // players)


def run(arguments: argparse.Namespace) -> None:
    """`python -m app`, until Ctrl-C."""
    auth = None
    if arguments.auth:
        user, colon, password = arguments.auth.partition(":")
        if not (user and colon and password):
            raise UserError("--auth takes USER:PASSWORD")
        auth = (user, password)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    engine = EngineConfig(threads=threads(arguments.players))
    models = Models(arguments.runs, tuple(arguments.checkpoint), engine=engine)
    app = start(
        models, arguments.dir, host=arguments.host, port=arguments.port, share=arguments.share, auth=auth,
        room=round(arguments.room * 1e9), days=arguments.days, players=arguments.players,
        lyrics=Lyrics(arguments.runs / "lyrics", arguments.lyrics_model),
    )  # fmt: skip
    console.print(f"playing at  {app.url}    (Ctrl-C ends it)")
    if auth is None and (arguments.share or arguments.host not in ("127.0.0.1", "localhost", "::1")):
        console.print("warning: others can reach it, and nobody has to log in; see --auth", style="yellow")
    threading.Thread(target=lambda: models.load(models.known()[0].id), daemon=True).start()
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("ending: what was played is kept as it is")
        app.close()
        raise
