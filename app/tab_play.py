"""The Play tab: what to play and how. What is played appears as cards, which static/page.js draws."""

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app.models import Known, Models
from app.service import LONGEST, MOST_TAKES
from sashimi.config import SamplingConfig
from sashimi.errors import UserError

SHORTEST = 5
EMPTY = "Press Play. The first sound comes within about two seconds, and the rest is made while you listen."


@dataclass
class Controls:
    """Components that other tabs read. settings: those that `settings` of page.js takes, in its order."""

    model: gr.Dropdown
    about: gr.HTML
    prompt: gr.Textbox
    mode: gr.Radio
    settings: list[Any]


def choices(models: Models) -> list[tuple[str, str]]:
    return [(known.title, known.id) for known in models.known()]


def suggested(models: Models, key: str | None) -> SamplingConfig:
    """How a checkpoint says that it is best played."""
    try:
        return models.find(key or "").metadata.sampling
    except UserError:
        return SamplingConfig()


def card(models: Models, key: str | None) -> str:
    """What a checkpoint says of itself, as HTML."""
    try:
        known = models.find(key or "")
    except UserError as error:
        return f'<div class="card">{escape(str(error))}</div>'
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts(models, known).items())
    return f'<div class="card"><dl>{rows}</dl></div>'


def facts(models: Models, known: Known) -> dict[str, str]:
    """What is known of a checkpoint, for people."""
    provenance, metrics, config = known.metadata.provenance, known.metadata.metrics, known.metadata.model
    data = provenance.get("data") or {}
    speed = models.measured(known.id)
    heldout = known.heldout
    val = metrics.get("val/bpb")
    return {
        "Model": f"{config.n_layers} blocks of {config.layer.kind.upper()} a tier, width {config.d_model}, "
        f"{known.rate / 1000:g} kHz",
        "Data": str(provenance.get("source") or data.get("name") or "not said"),
        "Licence": str(provenance.get("licence") or data.get("licence") or "not said"),
        "Bits per byte": (f"{val:.2f} on music it was not trained on" if val else "not said")
        + (f"; its windows {heldout['q05']:.2f} to {heldout['q95']:.2f}" if heldout else ""),
        "Best drawn with": str(known.metadata.sampling),
        "Speed here": f"{speed:.1f} times real time" if speed else "measured when it first plays",
    }


def build(models: Models) -> Controls:
    known = choices(models)
    drawn = suggested(models, known[0][1] if known else None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            model = gr.Dropdown(known, value=known[0][1] if known else None, label="Model")
            about = gr.HTML(card(models, known[0][1] if known else None))
        with gr.Column(scale=3, min_width=280):
            mode = gr.Radio(
                ["Improvise", "Continue"], value="Improvise", label="From where",
                info="Continue goes on from the recording chosen under Prompt.",
            )  # fmt: skip
            with gr.Row():
                seconds = gr.Slider(SHORTEST, LONGEST, value=10, step=1, label="Seconds to play")
                takes = gr.Slider(1, MOST_TAKES, value=1, step=1, label="Takes at once")
            with gr.Row():
                temp = gr.Slider(0, 1.5, value=drawn.temp, step=0.01, label="Temperature", info="lower is safer")
                seed = gr.Number(value=0, precision=0, minimum=0, maximum=2**53 - 1, label="Seed")
                lock = gr.Checkbox(False, label="Lock the seed", info="else a new one for every play")
            with gr.Accordion("More about how a sample is drawn", open=False):
                with gr.Row():
                    top_p = gr.Slider(0.01, 1, value=drawn.top_p, step=0.01, label="Top-p")
                    top_k = gr.Slider(0, 256, value=drawn.top_k, step=1, label="Top-k", info="0: all")
                with gr.Row():
                    min_p = gr.Slider(0, 0.5, value=drawn.min_p, step=0.005, label="Min-p")
                    floor = gr.Slider(
                        0, 0.02, value=drawn.floor, step=0.0005, label="Floor", info="fewer clicks from about 0.002"
                    )
                entropy = gr.Slider(
                    0, 8, value=drawn.entropy, step=0.1, label="Entropy",
                    info="bits from which on the temperature falls: care where the model is unsure; 0: never",
                )  # fmt: skip
            play = gr.Button("Play", variant="primary", size="lg", elem_id="play")
    prompt = gr.Textbox(visible="hidden", elem_id="prompt-choice", label="chosen section")
    gr.HTML(f'<div id="takes" aria-label="takes"></div><p class="empty" id="no-takes">{EMPTY}</p>')
    drawing = {"temp": temp, "top_p": top_p, "top_k": top_k, "min_p": min_p, "floor": floor, "entropy": entropy}
    settings = [model, seconds, takes, seed, *drawing.values()]
    hidden = gr.Button("fork", visible="hidden", elem_id="do-fork")

    model.change(lambda key: card(models, key), model, about, show_progress="hidden", api_visibility="private")
    model.change(
        lambda key: [getattr(suggested(models, key), name) for name in drawing], model, list(drawing.values()),
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    new_seed = "(seed, lock) => lock ? seed : Math.floor(Math.random() * 4294967296)"
    for button, what in ((play, "play"), (hidden, "fork")):
        chosen = button.click(None, [seed, lock], seed, js=new_seed, api_visibility="private")
        chosen.then(None, [*settings, prompt, mode], None, js=f"(...v) => band.{what}(...v)", api_visibility="private")
    return Controls(model, about, prompt, mode, settings)
