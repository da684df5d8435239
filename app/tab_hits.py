"""The Greatest hits tab: clips that came with the program, and takes that were kept."""

from html import escape

import gradio as gr

from app.shipped import clips

KEPT = "Nothing is kept yet. Keep a take under Play, and it stays here, also when the app is started anew."


def build(tab: gr.Tab) -> None:
    found = clips()
    if found:
        gr.Markdown("### Clips that came with the program")
    for i, clip in enumerate(found):
        player = f'<audio controls preload="none" src="sound/shipped/{i}" aria-label="{escape(clip.name)}"></audio>'
        text = f'<p class="legend">{escape(clip.provenance)}</p>'
        gr.HTML(f'<div class="card shipped"><strong>{escape(clip.name)}</strong>{player}{text}</div>')
    gr.Markdown("### Takes that you kept")
    gr.HTML(f'<p class="empty" id="no-hits">{KEPT}</p><div id="hits" aria-label="kept takes"></div>')
    tab.select(None, None, None, js="() => band.hits()", api_visibility="private")
