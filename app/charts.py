"""Bits per sample under a waveform, and checkpoints beside each other, as SVG in the page's own colours."""

from html import escape

import numpy as np

from app.guide import outside, smoothed
from app.models import Known
from app.sound import extremes
from app.takes import BINS, Bits
from sashimi.audio import Waveform

WIDTH, ABOVE, BELOW, LEFT, FOOT = 1000, 110, 190, 46, 26
POINTS = 900


def surprise(
    waveform: Waveform, bits: Bits, offset: float, heldout: dict[str, float], rate: int, what: str, origin: float = 0.0
) -> str:
    """waveform: f(L); bits: of the stretch that begins `offset` seconds into it, BINS a second.

    origin: the second that the waveform's first sample is called.
    """
    seconds = max(len(waveform) / rate, 1e-3)
    inner, height = WIDTH - LEFT, ABOVE + BELOW + FOOT
    top = max(8.0, float(bits.max()) * 1.05) if len(bits) else 8.0

    def x(second: float) -> float:
        return LEFT + inner * second / seconds

    def y(value: float) -> float:
        return ABOVE + BELOW * (1 - value / top)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(what)}">']
    for start, end, side in outside(bits, heldout):
        a, b = x(offset + start), x(offset + end)
        parts.append(f'<rect class="mark {side}" x="{a:.1f}" y="0" width="{b - a:.1f}" height="{ABOVE + BELOW}"/>')
    pairs, middle = extremes(waveform, POINTS), ABOVE / 2
    places = LEFT + inner * (np.arange(len(pairs)) + 0.5) / max(len(pairs), 1)
    edge = [f"{a:.1f},{middle - middle * 0.95 * high:.1f}" for a, (_, high) in zip(places, pairs, strict=True)]
    edge += [
        f"{a:.1f},{middle - middle * 0.95 * low:.1f}" for a, (low, _) in zip(places[::-1], pairs[::-1], strict=True)
    ]
    parts.append(f'<polygon class="wave" points="{" ".join(edge)}"/>')
    if heldout:
        a, b = y(min(heldout["q95"], top)), y(heldout["q05"])
        parts.append(f'<rect class="band" x="{LEFT}" y="{a:.1f}" width="{inner}" height="{b - a:.1f}"/>')
    for value in range(0, int(top) + 1, 2):
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{value}</text>')
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120) if seconds / s <= 12), 300)
    for second in range(0, int(seconds) + 1, step):
        if x(second) > WIDTH - 60:
            break  # it would not be whole
        label = f"{second + origin:g} s"
        parts.append(f'<text x="{x(second):.1f}" y="{height - 6}" text-anchor="middle">{label}</text>')
    for name, curve in (("fine", bits), ("slow", smoothed(bits, min(BINS, len(bits))) if len(bits) else bits)):
        line = [
            f"{x(offset + (i + 0.5) / BINS):.1f},{y(min(value, top)):.1f}" for i, value in enumerate(curve.tolist())
        ]
        parts.append(f'<polyline class="{name}" points="{" ".join(line)}"/>')
    if offset:
        parts.append(f'<line class="seam" x1="{x(offset):.1f}" x2="{x(offset):.1f}" y1="0" y2="{ABOVE + BELOW}"/>')
    return "".join([*parts, "</svg>"])


def bands(models: list[Known]) -> str:
    """The held-out ranges of checkpoints, one under the other."""
    known = [(m, m.heldout) for m in models if m.heldout]
    if not known:
        return ""
    high, row = max(h["q95"] for _, h in known) * 1.1, 40
    height = row * len(known) + FOOT
    label = "; ".join(f"{m.title}: {h['q05']:.2f} to {h['q95']:.2f}" for m, h in known)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    left = 260

    def x(value: float) -> float:
        return left + (WIDTH - left - 20) * value / high

    for i, (m, h) in enumerate(known):
        y = row * i + 8
        parts.append(f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(m.title[:28])}</text>')
        for name, a, b in (("band", "q05", "q95"), ("core", "q25", "q75")):
            parts.append(
                f'<rect class="{name}" x="{x(h[a]):.1f}" y="{y}" width="{x(h[b]) - x(h[a]):.1f}" height="24"/>'
            )
        parts.append(f'<line class="seam" x1="{x(h["q50"]):.1f}" x2="{x(h["q50"]):.1f}" y1="{y}" y2="{y + 24}"/>')
    for value in range(int(high) + 1):
        parts.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value}</text>')
    return "".join([*parts, "</svg>"])
