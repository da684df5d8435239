"""The Prompt tab: a recording to continue, a section of it, how the model hears it, and whether it knows such music."""

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from app import charts, guide
from app.errors import in_words
from app.prompts import LONGEST_PROMPT, RATE, Prompt, Prompts
from app.service import Service
from app.tab_play import Controls

ROOT = Path(__file__).parents[1]
# The bundled recording: its second minute was heard in training, the parts from 2:50 on were not.
BUNDLED = ROOT / "data_tools" / "sample" / "reclamation.flac"
EXAMPLES = {"Heard in training": (60.0, 68.0), "Never heard, the end of it": (225.0, 233.0)}
FIRST = 8.0  # seconds that are chosen of a new recording
NOTHING = "No recording yet. Bring one above, or take an example."

Chosen = tuple[str, str, float, float, str, str | None]  # hidden JSON, a line of text, start, end, a player, a file


def build(service: Service, prompts: Prompts, controls: Controls, tabs: gr.Tabs) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            # Not gr.Audio's own upload: it decodes all of a file in the browser, and two hours take gigabytes there.
            file = gr.File(
                file_types=["audio", "video"], type="filepath", label="A recording of any format", height=170,
                elem_id="upload",
            )  # fmt: skip
            sound = gr.Audio(
                sources=["microphone"], type="filepath", label="Or record; trim it here",
                elem_id="cut", buttons=[], waveform_options=gr.WaveformOptions(sample_rate=RATE),
            )  # fmt: skip
        with gr.Column(min_width=280):
            link = gr.Textbox(
                label="Or a link", placeholder="https://… (YouTube, or the address of a sound file)", max_lines=1
            )
            with gr.Row():
                begin = gr.Number(value=0, minimum=0, label="From second", scale=1)
                fetch = gr.Button("Fetch", scale=1)
            examples = [gr.Button(f"Example: {name}", size="sm") for name in EXAMPLES] if BUNDLED.is_file() else []
    text = gr.Markdown(NOTHING, elem_id="prompt-says")
    with gr.Row():
        start = gr.Number(value=0, minimum=0, step=0.5, label="Section from second")
        end = gr.Number(value=FIRST, minimum=0, step=0.5, label="to second")
    heard = gr.HTML(elem_id="heard")
    with gr.Row():
        ask = gr.Button("Does the model know this music?", variant="secondary", elem_id="ask")
        use = gr.Button("Continue it", variant="primary", elem_id="use")
    advice = gr.HTML(elem_id="advice")
    best = gr.Button("Take the section that fits best", visible=False)
    window, about = gr.State(None), gr.State("")  # the best section; which recording was advised on

    outputs = [controls.prompt, text, start, end, heard, sound]

    def chosen(prompt: Prompt, model: str, start: float = 0.0, end: float = FIRST) -> Chosen:
        start = min(start, max(0.0, prompt.seconds - 1))
        end = min(end, prompt.seconds)
        whole = str(prompts.folder / f"{prompt.id}.flac")
        return spec(prompt, start, end), prompt.text, start, end, player(prompt, model, start, end), whole

    @in_words
    def upload(path: str | None, model: str) -> Chosen:
        if path is None:
            return "", NOTHING, 0.0, FIRST, "", None
        return chosen(prompts.bring(path), model)

    @in_words
    def recorded(path: str | None, choice: str, model: str) -> tuple[Any, ...]:
        """What came out of the microphone or of a cut; what was put there by the others is known already."""
        if path is None:
            return "", NOTHING, 0.0, FIRST, ""
        if choice and Path(path).stem == json.loads(choice)["id"]:
            return (gr.skip(),) * 5
        prompt = prompts.bring(path, "What was recorded or cut")
        return chosen(prompt, model, 0.0, LONGEST_PROMPT)[:-1]

    @in_words
    def fetched(url: str, second: float | None, model: str, progress: gr.Progress = gr.Progress()) -> Chosen:  # noqa: B008
        progress(0, desc="asking")
        prompt = prompts.fetch(url or "", second or 0.0, lambda megabytes: progress(0.5, desc=f"{megabytes:.1f} MB"))
        return chosen(prompt, model)

    def example(name: str) -> Callable[[str], Chosen]:
        @in_words
        def take(model: str) -> Chosen:
            first, last = EXAMPLES[name]
            return chosen(prompts.add(BUNDLED, f"Reclamation ({name.lower()})"), model, first, last)

        return take

    @in_words
    def cut(choice: str, model: str, start: float | None, end: float | None) -> tuple[str, str]:
        if not choice:
            return "", ""
        prompt = prompts.find(json.loads(choice)["id"])
        first, last = prompts.section(prompt, start or 0.0, prompt.seconds if end is None else end)
        return spec(prompt, first, last), player(prompt, model, first, last)

    @in_words
    def advise(
        choice: str,
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, gr.Button, tuple[float, float] | None]:
        if not choice:
            raise gr.Error("Choose a recording first.", print_exception=False)
        values = json.loads(choice)
        prompt, loaded = prompts.find(values["id"]), service.models.load(model)
        # Some of what surrounds the section too: a better one may be next to it.
        before = max(0.0, guide.LONGEST - (values["end"] - values["start"])) / 2
        first = float(int(max(0.0, min(values["start"] - before, prompt.seconds - guide.LONGEST))))
        last = min(prompt.seconds, first + guide.LONGEST)
        waveform = prompts.waveform(prompt, first, last)
        tokens = loaded.codec.encode(prompts.waveform_at(prompt, loaded.known.rate, first, last))
        bits = guide.bits_over_time(loaded, tokens, lambda share: progress(share, desc="listening"))
        said = guide.advise(bits, loaded.known)
        hardest, cost = said.hardest
        a, b, mean = said.best
        a, b = a + first, b + first
        chart = charts.surprise(waveform, bits, 0.0, loaded.known.heldout, RATE, "bits per sample over time", first)
        words = (
            f'<div class="verdict {said.level}" role="status"><p>{escape(said.verdict)}</p>'
            f"<p>Hardest: the second from {first + hardest:g} s, {cost:.2f} bits. "
            f"Fits best: {a:g} to {b:g} s, {mean:.2f} bits.</p></div>"
        )
        looked = f"Looked at: {first:g} to {last:.0f} s. Thick line: mean over a second; green: held-out music."
        note = f'<p class="legend">{looked}</p>'
        return (
            words + chart + note,
            gr.Button(f"Take the section that fits best: {a:g} to {b:g} s", visible=True),
            (a, b),
        )

    def fresh(choice: str, before: str) -> tuple[Any, Any, str]:
        """Advice on another recording goes."""
        now = json.loads(choice)["id"] if choice else ""
        return (gr.skip(), gr.skip(), now) if now == before else ("", gr.Button(visible=False), now)

    options: dict[str, Any] = {"api_visibility": "private"}
    clear = advice, best
    file.change(upload, [file, controls.model], outputs, **options)
    # Recorded, or cut on the waveform, which Gradio does not call an input: a recording of its own.
    sound.change(recorded, [sound, controls.prompt, controls.model], outputs[:-1], **options)
    controls.prompt.change(fresh, [controls.prompt, about], [*clear, about], show_progress="hidden", **options)
    fetch.click(fetched, [link, begin, controls.model], outputs, **options)
    link.submit(fetched, [link, begin, controls.model], outputs, **options)
    for button, name in zip(examples, EXAMPLES, strict=False):
        button.click(example(name), controls.model, outputs, **options)
    for number in (start, end):
        number.submit(cut, [controls.prompt, controls.model, start, end], [controls.prompt, heard], **options)
        number.blur(cut, [controls.prompt, controls.model, start, end], [controls.prompt, heard], **options)
    ask.click(advise, [controls.prompt, controls.model], [advice, best, window], **options)
    best.click(lambda at: at, window, [start, end], **options).then(
        cut, [controls.prompt, controls.model, start, end], [controls.prompt, heard], **options
    )

    @in_words
    def to_play(choice: str, model: str, start: float, end: float) -> tuple[str, str, str, gr.Tabs]:
        if not choice:
            raise gr.Error("Choose a recording first.", print_exception=False)
        return (*cut(choice, model, start, end), "Continue", gr.Tabs(selected="play"))

    use.click(
        to_play, [controls.prompt, controls.model, start, end], [controls.prompt, heard, controls.mode, tabs], **options
    )


def spec(prompt: Prompt, start: float, end: float) -> str:
    return json.dumps({"id": prompt.id, "start": start, "end": end})


def player(prompt: Prompt, model: str, start: float, end: float) -> str:
    """A section as the model hears it: at its rate, in its tokens."""
    if end - start > LONGEST_PROMPT:
        end = start + LONGEST_PROMPT
    query = escape(urlencode({"model": model, "start": start, "end": end}))
    return (
        f'<p class="legend">{start:g} to {end:g} s as the model hears it, 16 kHz and 8 bit:</p>'
        f'<audio controls preload="none" style="width:100%" aria-label="the section as the model hears it" '
        f'src="sound/prompts/{prompt.id}/heard.wav?{query}"></audio>'
    )
