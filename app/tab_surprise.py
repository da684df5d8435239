"""The Surprise tab: bits per sample over time under the waveform of any clip."""

import json
from html import escape
from typing import Any

import gradio as gr

from app import charts, guide
from app.errors import in_words
from app.prompts import Prompts
from app.service import Service
from app.tab_play import Controls
from app.takes import Bits, Take

LEGEND = (
    "Above the waveform, below it the bits per sample: the thin line in twentieths of a second, the thick one over a "
    "second. Green: where five-second windows of held-out music lie. Red: moments whose five seconds cost more than "
    "that; blue: less, which is where a model drones. The blue line is where the model began to play."
)
THE_PROMPT = "prompt"


def build(
    service: Service,
    prompts: Prompts,
    controls: Controls,
    user: gr.Textbox,
    cards: tuple[gr.Button, gr.Textbox],
    tab: gr.Tab,
    tabs: gr.Tabs,
) -> None:
    """cards: what a card on the page presses to see its take here, and where it says which."""
    gr.Markdown("What the model did not expect, in a recording or in what was played.")
    with gr.Row():
        clip = gr.Dropdown([], label="Clip", scale=3)
        look = gr.Button("Look", variant="primary", scale=1, elem_id="look")
    chart = gr.HTML(f'<p class="empty">{LEGEND}</p>', elem_id="chart")
    hidden, wanted = cards

    def choices(choice: str, user: str, owner: str) -> list[tuple[str, str]]:
        found = [("The recording under Prompt", THE_PROMPT)] if choice else []
        takes = {take.id: take for take in (*service.takes.of(user), *service.takes.kept(owner))}
        return found + [(take.about.name, take.id) for take in takes.values() if take.about.played]

    @in_words
    def listed(choice: str, user: str, now: str | None, request: gr.Request) -> gr.Dropdown:
        found = choices(choice, user, request.username or "")
        values = [value for _, value in found]
        return gr.Dropdown(found, value=now if now in values else (values[0] if values else None))

    @in_words
    def shown(clip: str | None, choice: str, model: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        if not clip:
            raise gr.Error("There is no clip yet: play something, or bring a recording.", print_exception=False)
        if clip == THE_PROMPT:
            return of_prompt(service, prompts, choice, model, progress)
        return of_take(service, service.takes.find(clip))

    @in_words
    def from_card(asked: str, choice: str, user: str, request: gr.Request) -> tuple[gr.Dropdown, str, gr.Tabs]:
        take = service.takes.find(str(json.loads(asked)))
        found = choices(choice, user, request.username or "")
        if take.id not in [value for _, value in found]:
            found.append((take.about.name, take.id))
        return gr.Dropdown(found, value=take.id), of_take(service, take), gr.Tabs(selected="surprise")

    options: dict[str, Any] = {"api_visibility": "private"}
    tab.select(listed, [controls.prompt, user, clip], clip, show_progress="hidden", **options)
    look.click(shown, [clip, controls.prompt, controls.model], chart, **options)
    hidden.click(None, None, wanted, js="() => band.asked()", **options).then(
        from_card, [wanted, controls.prompt, user], [clip, chart, tabs], **options
    )


def of_take(service: Service, take: Take) -> str:
    about = take.about
    try:
        heldout = service.models.find(about.model).heldout
    except ValueError:
        heldout = {}
    bits = take.bits()
    drawn = charts.surprise(
        take.codec.decode(take.tokens()),
        bits,
        about.prompt / about.rate,
        heldout,
        about.rate,
        f"surprise in {about.name}",
    )
    source = f'src="sound/takes/{take.id}/play.wav" aria-label="{escape(about.name)}"'
    listen = f'<audio controls preload="none" style="width:100%" {source}></audio>'
    return f"<h3>{escape(about.name)}</h3>{drawn}{listen}{words(bits, heldout, about.prompt / about.rate)}"


def of_prompt(service: Service, prompts: Prompts, choice: str, model: str, progress: gr.Progress) -> str:
    values = json.loads(choice)
    prompt, loaded = prompts.find(values["id"]), service.models.load(model)
    start, end = prompts.section(prompt, values["start"], values["end"])
    waveform = prompts.waveform_at(prompt, loaded.known.rate, start, end)
    bits = guide.bits_over_time(loaded, loaded.codec.encode(waveform), lambda share: progress(share, desc="listening"))
    drawn = charts.surprise(
        waveform, bits, 0.0, loaded.known.heldout, loaded.known.rate, f"surprise in {prompt.title}", start
    )
    return f"<h3>{escape(prompt.title)}, {start:g} to {end:g} s</h3>{drawn}{words(bits, loaded.known.heldout, start)}"


def words(bits: Bits, heldout: dict[str, float], offset: float) -> str:
    """The marked moments as text too: not everybody sees the picture."""
    if not len(bits):
        return '<p class="legend">Nothing was played yet.</p>'
    if not heldout:
        said = "The checkpoint does not say what held-out music costs, so nothing is marked."
    else:
        marks = guide.outside(bits, heldout)
        texts = [f"{a + offset:.1f} to {b + offset:.1f} s ({side} the band)" for a, b, side in marks[:8]]
        said = (
            "Outside the held-out band: " + ", ".join(texts)
            if marks
            else "All of it lies in the band of held-out music"
        )
        said += f" and {len(marks) - 8} more." if len(marks) > 8 else "."
    return f'<p role="status">Mean: {float(bits.mean()):.2f} bits per sample. {said}</p><p class="legend">{LEGEND}</p>'
