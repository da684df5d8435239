"""The page: its tabs, its looks, and the function that programs call."""

from pathlib import Path
from typing import Any

import gradio as gr

from app import tab_compare, tab_hits, tab_lyrics, tab_play, tab_prompt, tab_surprise
from app.api import add_api
from app.lyrics import Lyrics
from app.prompts import MOST_BYTES as MOST_BYTES
from app.prompts import Prompts
from app.service import Service

STATIC = Path(__file__).with_name("static")
HEAD = """<div id="band-head"><div><h1>The band</h1><p>Music a sample at a time, made while you listen.</p></div>
<button type="button" onclick="document.body.classList.toggle('dark')">Light or dark</button></div>
<p id="band-says" role="alert"></p>"""
SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """System fonts: Gradio's own themes fetch theirs from the net."""
    return gr.themes.Soft(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=SYSTEM, font_mono=MONO
    )


def looks() -> dict[str, Any]:
    """What `launch` wants to know of the page."""
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    css = (STATIC / "page.css").read_text(encoding="utf-8")
    return {"theme": theme(), "css": css, "head": f"<script>{script}</script>"}


def build(service: Service, prompts: Prompts, lyrics: Lyrics) -> gr.Blocks:
    models = service.models
    with gr.Blocks(title="The band", analytics_enabled=False, fill_width=False) as page:
        gr.HTML(HEAD)
        user = gr.Textbox(visible="hidden", label="page")
        # What cards ask for. Outside of the tabs: Gradio makes what is in a tab when that is first opened.
        wanted = gr.Textbox(visible="hidden", label="wanted")
        hidden = gr.Button("surprise", visible="hidden", elem_id="do-surprise")
        with gr.Tabs() as tabs:
            with gr.Tab("Play", id="play"):
                controls = tab_play.build(models)
            with gr.Tab("Prompt", id="prompt"):
                tab_prompt.build(service, prompts, controls, tabs)
            with gr.Tab("Surprise", id="surprise") as surprise:
                tab_surprise.build(service, prompts, controls, user, (hidden, wanted), surprise, tabs)
            with gr.Tab("Compare", id="compare") as compare:
                tab_compare.build(models, controls, compare)
            with gr.Tab("Greatest hits", id="hits") as hits:
                tab_hits.build(hits)
            with gr.Tab("Lyrics", id="lyrics") as words:
                tab_lyrics.build(lyrics, words, page)
        add_api(service, prompts)
        page.load(None, None, user, js="() => band.user()", api_visibility="private")
        # What is known of a model's speed grows while the page is closed.
        page.load(lambda key: tab_play.card(models, key), controls.model, controls.about, api_visibility="private")
    return page
