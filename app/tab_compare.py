"""The Compare tab: checkpoints side by side, and the same prompt and seed played by each."""

from html import escape

import gradio as gr

from app import charts
from app.models import Models
from app.tab_play import Controls, choices, facts

MOST = 4
LEGEND = (
    "Bits per byte of held-out five-second windows: 90% of them, half of them, the median. Lower is better, "
    "on the same music only."
)


def table(models: Models, keys: list[str]) -> str:
    """What checkpoints say of themselves, a column each, as HTML."""
    chosen = [known for known in models.known() if known.id in keys][:MOST]
    if not chosen:
        return '<p class="empty">Choose checkpoints to compare.</p>'
    columns = []
    for known in chosen:
        metrics, provenance = known.metadata.metrics, known.metadata.provenance
        rows = facts(models, known)
        for name, key in (("Validation, bits per byte", "val/bpb"), ("Validation, accuracy", "val/accuracy"),
                          ("among the 3 likeliest", "val/accuracy@3"), ("among the 10 likeliest", "val/accuracy@10"),
                          ("Test, bits per byte", "test/bpb")):  # fmt: skip
            rows[name] = f"{metrics[key]:.3f}" if metrics.get(key) is not None else "not said"
        heldout = known.heldout
        rows["Held-out windows, median"] = f"{heldout['q50']:.2f}" if heldout else "not said"
        rows["Steps of training"] = f"{provenance['steps']:,}" if "steps" in provenance else "not said"
        columns.append(rows)
    head = "".join(f'<th scope="col">{escape(known.title)}</th>' for known in chosen)
    lines = [
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{escape(c[name])}</td>" for c in columns)}</tr>'
        for name in columns[0]
    ]
    body = f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>{charts.bands(chosen)}<p class="legend">{LEGEND}</p>'


def build(models: Models, controls: Controls, tab: gr.Tab) -> None:
    known = choices(models)
    first = [key for _, key in known[:2]]
    chosen = gr.CheckboxGroup(known, value=first, label=f"Checkpoints, up to {MOST}")
    figures = gr.HTML(table(models, first))
    gr.Markdown("The same seed, and the same section if Play is set to continue one, with the settings under Play:")
    own = gr.Checkbox(
        True, label="Drawn as each says that it is best played", info="else all with the settings under Play"
    )
    play = gr.Button("Play with each", variant="primary", elem_id="compare")
    gr.HTML('<div id="compared"></div>')
    for changed in (chosen.change, tab.select):
        changed(lambda keys: table(models, keys), chosen, figures, show_progress="hidden", api_visibility="private")
    play.click(
        None, [chosen, own, *controls.settings, controls.prompt, controls.mode], None,
        js=f"(models, ...v) => band.compare(models.slice(0, {MOST}), ...v)", api_visibility="private",
    )  # fmt: skip
