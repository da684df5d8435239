"""The Lyrics tab: a song written to a title, and what can be said about a text. Needs the companion's extra."""

import threading
import time
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from app.errors import in_words, worded
from app.lyrics import Lyrics, missing
from sashimi.errors import UserError

LANGUAGES = [("English", "en"), ("Portuguese", "pt"), ("Spanish", "es"), ("French", "fr"), ("Italian", "it"),
             ("German", "de")]  # fmt: skip
SHOW = 0.12  # seconds between two pictures of a growing text
NO_MODEL = "Counts and word lists only, without a model"
NOTHING = "Nothing yet. A text that was written above can be looked into, or any other."


def build(lyrics: Lyrics, tab: gr.Tab, page: gr.Blocks) -> None:
    if said := missing():
        gr.Markdown(said, elem_id="lyrics-advice")
        return
    # By page, what ends its last job of a kind.
    writing: dict[str, threading.Event] = {}
    looking: dict[str, threading.Event] = {}
    advice = gr.Markdown(lyrics.advice() or "", elem_id="lyrics-advice", visible=bool(lyrics.advice()))
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            title = gr.Textbox(label="Title", placeholder="The song is called …", max_lines=1, max_length=200)
            language = gr.Dropdown(LANGUAGES, value="en", label="Language", allow_custom_value=True)
            model = gr.Dropdown([], label="Model", elem_id="lyrics-model")
            with gr.Accordion("Artist, genre, first line", open=False):
                artist = gr.Textbox(label="In the manner of", placeholder="optional", max_lines=1, max_length=200)
                genre = gr.Textbox(label="Genre", placeholder="optional", max_lines=1, max_length=200)
                first = gr.Textbox(label="First line", placeholder="optional", max_lines=1, max_length=200)
            with gr.Row():
                temperature = gr.Slider(0, 1.5, value=0.8, step=0.05, label="Temperature", info="lower is safer")
                length = gr.Slider(20, 1000, value=400, step=10, label="Length", info="tokens, at most")
            with gr.Row():
                seed = gr.Number(value=0, precision=0, minimum=0, maximum=2**53 - 1, label="Seed", min_width=120)
                lock = gr.Checkbox(False, label="Lock the seed", info="else a new one each time", min_width=120)
            with gr.Row():
                go = gr.Button("Write", variant="primary", elem_id="write")
                stop = gr.Button("Stop", elem_id="stop-writing")
        with gr.Column(scale=3, min_width=280):
            text = gr.Textbox(
                label="Lyrics", lines=18, max_lines=30, buttons=["copy"], elem_id="lyrics-text", interactive=True,
                placeholder="What is written appears here as it comes, and can be changed.",
            )  # fmt: skip
            state = gr.HTML('<p class="legend" role="status"></p>', elem_id="lyrics-says")
            with gr.Row():
                save = gr.Button("Download", size="sm", elem_id="save-lyrics")
                take = gr.Button("Look into it", size="sm", elem_id="take-lyrics")
    gr.Markdown("### What can be said about a text")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            given = gr.Textbox(label="A text", lines=8, max_lines=16, max_length=8000, elem_id="given-text")
            reader = gr.Dropdown([(NO_MODEL, "")], value="", label="By what")
            look = gr.Button("Look into it", variant="primary", elem_id="analyze")
        with gr.Column(scale=3, min_width=280):
            found = gr.HTML(f'<p class="empty">{NOTHING}</p>', elem_id="lyrics-found")

    @in_words
    def refreshed(now: str | None, by: str) -> tuple[Any, ...]:
        """Runs may have ended while the page was open."""
        voices = [(voice.title, voice.key) for voice in lyrics.voices("writing")]
        readers = [(NO_MODEL, ""), *((voice.title, voice.key) for voice in lyrics.voices("understanding"))]
        keys = [key for _, key in voices]
        said = lyrics.advice()
        return (
            gr.Markdown(said or "", visible=bool(said)),
            gr.Dropdown(voices, value=now if now in keys else (keys[0] if keys else None), interactive=True),
            gr.Dropdown(readers, value=by if by in [key for _, key in readers] else "", interactive=True),
            gr.Button(interactive=bool(voices)),
        )

    def write(
        key: str | None, title: str, language: str, artist: str, genre: str, first: str, temperature: float,
        length: float, seed: int, request: gr.Request,
    ) -> Iterator[tuple[str, str]]:  # fmt: skip
        end = fresh(writing, request)
        asked = {"title": title, "language": language, "artist": artist or None, "genre": genre or None,
                 "first_line": first or None}  # fmt: skip
        sampling = {"temperature": temperature, "max_tokens": int(length), "seed": int(seed or 0)}
        shown = 0.0
        with worded("writing lyrics"):
            if not key:
                raise UserError(lyrics.advice() or "choose a model first")
            for now in lyrics.write(key, asked, sampling, end):
                if now.over or not now.text or time.monotonic() - shown > SHOW:
                    shown = time.monotonic()
                    yield now.text, says(now.said)

    def analyze(given: str, by: str, request: gr.Request) -> Iterator[str]:
        with worded("analysing lyrics"):
            for said, lines in lyrics.analyze(given or "", by or None, fresh(looking, request)):
                yield table(lines) if lines else says(said)

    def fresh(stops: dict[str, threading.Event], request: gr.Request) -> threading.Event:
        ended(stops, request)
        return stops.setdefault(request.session_hash or "", threading.Event())

    def ended(stops: dict[str, threading.Event], request: gr.Request) -> None:
        if event := stops.pop(request.session_hash or "", None):
            event.set()

    def stopped(request: gr.Request) -> None:
        ended(writing, request)

    def left(request: gr.Request) -> None:
        ended(writing, request)
        ended(looking, request)

    options: dict[str, Any] = {"api_visibility": "private"}
    outputs = [advice, model, reader, go]
    tab.select(refreshed, [model, reader], outputs, show_progress="hidden", **options)
    drawn = "(seed, lock) => lock ? seed : Math.floor(Math.random() * 4294967296)"
    asked = [model, title, language, artist, genre, first, temperature, length, seed]
    for pressed in (go.click, title.submit):
        chosen = pressed(None, [seed, lock], seed, js=drawn, **options)
        # Without Gradio's own queue: whoever waits is told for how many.
        chosen.then(write, asked, [text, state], show_progress="hidden", concurrency_limit=None, **options)
    stop.click(stopped, None, None, queue=False, show_progress="hidden", **options)
    save.click(None, [text, title], None, js="(text, title) => band.save(text, title)", **options)
    take.click(lambda written: written, text, given, show_progress="hidden", **options).then(
        analyze, [given, reader], found, show_progress="hidden", concurrency_limit=None, **options
    )
    look.click(analyze, [given, reader], found, show_progress="hidden", concurrency_limit=None, **options)
    page.unload(left)


def says(text: str) -> str:
    return f'<p class="legend" role="status">{escape(text)}</p>'


def table(lines: list[Any]) -> str:
    """Lines of sashimi.lyrics.analyze: what, the answer, and how it is known."""
    rows = "".join(
        f"<dt>{escape(line.what)}</dt><dd>{escape(line.answer)}<br><small>{escape(line.source)}</small></dd>"
        for line in lines
    )
    return f'<div class="card" role="status"><dl>{rows}</dl></div>'
