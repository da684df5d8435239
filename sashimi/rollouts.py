"""Models played for minutes, and measured beside real recordings: `evaluate.py rollout=true`."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sashimi import data, distance, generation, rollout_plots, survival
from sashimi.checkpoint import LoadedModel
from sashimi.clips import Recorder, summary
from sashimi.codec import Codec, Tokens
from sashimi.config import EvaluateConfig, plain
from sashimi.data import open_tokens
from sashimi.distance import Embedding
from sashimi.engines import make_engine
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.metrics import BITS, LONG, LONG_STEP, SHORT, SHORT_FEATURES, Floats, Listener, Track
from sashimi.progress import bar
from sashimi.survival import JUDGED, Band, End

MARKS = (8, 30, 60, 300)  # seconds at which the survival curve is told
PART = 60.0  # seconds of the parts whose distance to the first is taken; half of a clip that has no two of them
BLOCK = 1 << 16  # samples of a recording at a time
REAL = "real music"


@dataclass(frozen=True)
class Contender:
    """A model to be played, by the title that its column has, and the data set that it is held against."""

    title: str
    model: LoadedModel
    folder: Path


@dataclass(frozen=True)
class Real:
    """Recordings of a data set as a codec leaves them: val sets the band and the embedding, test confirms."""

    val: list[Track]
    test: list[Track]
    band: Band
    embedding: Embedding


@dataclass(frozen=True)
class Group:
    """Clips that were played, or recordings: tracks, what became of each, and the figures of their column."""

    title: str
    played: bool
    tracks: list[Track]
    ends: list[End]
    figures: dict[str, Any]


def judge(config: EvaluateConfig, folder: Path, contenders: Sequence[Contender], console: Console) -> None:
    """Play every model, measure, print the table, and save rollout.json, .md and plots in `folder`.

    Raises UserError where val or test is too short to set a band, or has too few beginnings to continue.
    """
    known: dict[str, Real] = {}
    groups: list[Group] = []
    saved: list[dict[str, Any]] = []
    for contender in contenders:
        codec = Codec(contender.model.metadata.codec)
        key = json.dumps([str(contender.folder), asdict(codec.config)])
        if key not in known:
            known[key] = listen(contender.folder, codec, console)
            groups.append(_real_group(REAL if len(known) == 1 else f"{REAL} of {contender.title}", known[key], config))
        real = known[key]
        if real is not next(iter(known.values())):
            what = "is held against other recordings or has a codec of its own; plots show the first one's"
            console.print(f"warning: {contender.title} {what}", style="yellow")
        for continued, count in ((False, config.survival.clips), (True, config.survival.continued)):
            if count:
                tracks = play(config, folder, contender, count, continued, console)
                title = f"{contender.title}, continuing" if continued else contender.title
                groups.append(_group(title, tracks, real, config))
    for group in groups:
        clips = [{**asdict(end), "played": track.seconds} for end, track in zip(group.ends, group.tracks, strict=True)]
        saved.append({"title": group.title, **group.figures, "clips": clips})
    first = next(iter(known.values()))
    _print(console, groups, config.survival.seconds)
    _save(folder, groups, saved, first, config)
    console.print(f"saved in {folder}: rollout.json, .md, rollout-survival.png, -features.png, -drift.png")


# --- listening and playing ----------------------------------------------------------------------------


def listen(folder: Path, codec: Codec, console: Console) -> Real:
    """The val and test recordings of a data set, as they sound after the codec."""
    stores = {split: open_tokens(folder, split, codec) for split in ("val", "test")}
    noise = np.random.default_rng(0).uniform(-1, 1, round(LONG * codec.config.rate)).astype(np.float32)
    Listener(codec.config.rate).add(noise)  # librosa takes its time to load, which is no measure of the rest
    total, done, began = sum(store.offsets[-1] for store in stores.values()), 0, time.monotonic()
    tracks: dict[str, list[Track]] = {"val": [], "test": []}
    with bar(console, "listening to val and test") as update:
        for split, store in stores.items():
            for recording, length in enumerate(store.lengths):
                listener = Listener(codec.config.rate)
                for start in range(0, length, codec.config.window or BLOCK):
                    listener.add(codec.decode(store.window(recording, start, codec.config.window or BLOCK)))
                    done += min(codec.config.window or BLOCK, length - start)
                    rate = done / (time.monotonic() - began)
                    text = f"{rate / codec.config.rate:,.0f} x real time"
                    update(done / total, text, (total - done) / rate)
                if length >= SHORT * codec.config.rate:
                    tracks[split].append(listener.finish())
    for split, found in tracks.items():
        if not found:
            raise UserError(f"the {split} split of {folder} has no recording of {SHORT} s; a band needs real music")
    embedding = Embedding.of(np.concatenate([track.patches for track in tracks["val"]]))
    return Real(tracks["val"], tracks["test"], survival.band_of(tracks["val"]), embedding)


def play(
    config: EvaluateConfig, folder: Path, contender: Contender, count: int, continued: bool, console: Console
) -> list[Track]:
    """Clips of a model, measured while they are played; with survival.keep also as FLAC in folder/rollout."""
    settings, model = config.survival, contender.model
    codec = Codec(model.metadata.codec)
    rate = codec.config.rate
    beginnings = _beginnings(contender, codec, settings.prompt, count) if continued else [np.zeros(0, np.uint8)]
    length = max(map(len, beginnings)) + round(settings.seconds * rate)
    engine = make_engine(config.engine, model)
    name = re.sub(r"[^\w-]+", "-", contender.title) + ("-continuing" if continued else "")
    recorders: list[Recorder] = []
    if settings.keep:
        (folder / "rollout").mkdir(parents=True, exist_ok=True)
        paths = [folder / "rollout" / f"{name}-{number:02}.flac" for number in range(count)]
        recorders = [
            Recorder(path, codec, number, beginnings[number % len(beginnings)], True)
            for number, path in enumerate(paths)
        ]
    listeners = [Listener(rate) for _ in range(count)]
    blocks = generation.generate(
        engine, beginnings, length, settings.sampling, config.seed, numbers=range(count), n_batch=count
    )
    whole = False
    try:
        with bar(console, f"playing {name}") as update:
            for block in blocks:
                bits = -block.logp / math.log(2)
                for i, listener in enumerate(listeners):
                    listener.add(codec.decode(block.tokens[i]), bits[i])
                for recorder, tokens, likelihood in zip(recorders, block.tokens, block.log_likelihoods, strict=False):
                    recorder.add(tokens, likelihood)
                update(*summary(block, count if block.last else 0, count, rate))
        whole = True
    finally:
        for recorder in recorders:
            recorder.close(whole)
    return [listener.finish() for listener in listeners]


def _beginnings(contender: Contender, codec: Codec, seconds: float, count: int) -> list[Tokens]:
    """Beginnings of test recordings, `count` of them or as many as there are: clips then share them."""
    length = round(seconds * codec.config.rate)
    length -= length % contender.model.period
    for wanted in range(count, 0, -1):
        with suppress(UserError):
            return data.beginnings(contender.folder, "test", codec, length, wanted)
    raise UserError(
        f"the test split of {contender.folder} has no beginning of {seconds:g} s; lower survival.prompt, or set "
        "survival.continued=0"
    )


# --- figures ------------------------------------------------------------------------------------------


def _real_group(title: str, real: Real, config: EvaluateConfig) -> Group:
    """Test recordings in the place of clips. Their floor is the distance of val to test at the models' sizes."""
    tracks = survival.excerpts(real.test, config.survival.seconds)
    group = _group(title, tracks, real, config, played=False)
    of_clips = _evenly(_whole(real, config.survival.seconds), max(config.survival.clips, config.survival.continued))
    count = sum(len(track.patches) for track in of_clips) or sum(len(track.patches) for track in real.val)
    val, test = (real.embedding(np.concatenate([t.patches for t in of])) for of in (real.val, real.test))
    val = distance.sample(val, count, config.seed)
    group.figures["frechet"] = _distances(val, test, config.seed)
    group.figures["drift"] = _drift(of_clips)
    group.figures["parts"] = _parts(of_clips, real.embedding, config.survival.seconds)
    return group


def _whole(real: Real, seconds: float) -> list[Track]:
    """Sections of val and test of a clip's length that do not overlap."""
    every = math.ceil(seconds / LONG_STEP) * LONG_STEP
    cut = survival.excerpts([*real.test, *real.val], seconds, every)
    return [track for track in cut if track.seconds >= math.floor(seconds / SHORT) * SHORT]


def _evenly(tracks: list[Track], count: int) -> list[Track]:
    chosen = np.linspace(0, len(tracks) - 1, min(count, len(tracks))).round().astype(int)
    return [tracks[i] for i in chosen]


def _group(title: str, tracks: list[Track], real: Real, config: EvaluateConfig, played: bool = True) -> Group:
    ends = [survival.end_of(track, real.band) for track in tracks]
    lengths = [track.seconds for track in tracks]
    marks = [mark for mark in MARKS if mark <= config.survival.seconds]
    grid = np.arange(0, config.survival.seconds + 0.5, 0.5).tolist()
    over_time = [survival.series(track) for track in tracks]
    columns = {f.name: np.concatenate([of[f.name][1] for of in over_time]) for f in JUDGED}
    if played:
        columns[BITS.name] = np.concatenate([track.short[:, -1] for track in tracks])
    figures: dict[str, Any] = {
        "survival": dict(zip(map(str, marks), survival.curve(ends, lengths, marks), strict=True)),
        "causes": dict(Counter(end.cause for end in ends if end.cause)),
        "features out first": dict(Counter(end.feature for end in ends if end.feature)),
        "curve": {"seconds": grid, "share": survival.curve(ends, lengths, grid)},
        "features": {name: _quantiles(values) for name, values in columns.items()},
    }
    if played:
        generated = real.embedding(np.concatenate([track.patches for track in tracks]))
        test = real.embedding(np.concatenate([track.patches for track in real.test]))
        figures["frechet"] = _distances(generated, test, config.seed)
        figures["drift"] = _drift(tracks)
        figures["parts"] = _parts(tracks, real.embedding, config.survival.seconds)
    return Group(title, played, tracks, ends, figures)


def _quantiles(values: Floats) -> dict[str, float] | None:
    finite = values[np.isfinite(values)]
    return {f"q{q:02}": float(np.quantile(finite, q / 100)) for q in (5, 50, 95)} if len(finite) else None


def _distances(a: Floats, test: Floats, seed: int) -> dict[str, float] | None:
    if min(len(a), len(test)) < 2:
        return None
    extrapolated = distance.at_infinity(a, test, seed)
    return {"to test": distance.frechet(a, test), "at infinity": extrapolated, "patches": len(a)}


def _drift(tracks: Sequence[Track]) -> dict[str, dict[str, float | None]]:
    """Slope of every feature by the minute: mean over clips, and the standard error of that mean."""
    slopes: dict[str, list[float]] = {}
    for track in tracks:
        over_time = survival.series(track)
        if track.short.shape[1] > len(SHORT_FEATURES):
            over_time[BITS.name] = SHORT, track.short[:, -1]
        for name, (step, values) in over_time.items():
            good = np.isfinite(values)
            if good.sum() >= 3:
                minutes = np.arange(len(values))[good] * step / 60
                slopes.setdefault(name, []).append(float(np.polyfit(minutes, values[good], 1)[0]))
    return {
        name: {
            "per minute": float(np.mean(found)),
            "standard error": float(np.std(found, ddof=1) / math.sqrt(len(found))) if len(found) > 1 else None,
        }
        for name, found in slopes.items()
    }


def _parts(tracks: Sequence[Track], embedding: Embedding, seconds: float) -> dict[str, Any] | None:
    """Distance of each part of the clips, all clips together, to their first part: of minutes, or of halves."""
    length = PART if seconds >= 2 * PART else seconds / 2
    count = int(seconds // length)
    parts = [[track.part(k * length, length).patches for track in tracks] for k in range(count)]
    if not tracks or min(sum(map(len, part)) for part in parts) < 2:
        return None
    projected = [embedding(np.concatenate(part)) for part in parts]
    return {"seconds": length, "to the first": distance.from_the_first(projected)}


# --- output -------------------------------------------------------------------------------------------


def rows(groups: Sequence[Group], seconds: float, ranges: bool) -> list[list[str]]:
    """The table as text: what happens to the clips, how they sound, how far they are from test recordings.

    ranges: from 5% to 95% of a feature, beside its median.
    """

    def row(name: str, values: Sequence[str]) -> list[str]:
        return [name, *values]

    figures = [group.figures for group in groups]
    marks = [mark for mark in MARKS if mark <= seconds]
    found = [row("clips", [str(len(group.tracks)) for group in groups])]
    found += [row(f"still music after {m} s", [_percent(f["survival"][str(m)]) for f in figures]) for m in marks]
    found += [row(f"left: {c}", [str(f["causes"].get(c, 0)) for f in figures]) for c in survival.CAUSES]
    left = [[end.seconds for end in group.ends if end.seconds is not None] for group in groups]
    found.append(row("left after, median (s)", [f"{np.median(of):.1f}" if of else "-" for of in left]))
    for feature in (*JUDGED, BITS):
        name = f"{feature.name}{f' ({feature.unit})' if feature.unit else ''}"
        values = [f["features"].get(feature.name) for f in figures]
        found.append(row(name, [_quantity(v, ranges) for v in values]))
    for key, name in (("to test", "Frechet distance to test"), ("at infinity", "without its size bias")):
        found.append(row(name, [f"{f['frechet'][key]:.1f}" if f["frechet"] else "-" for f in figures]))
    name = "last part to the first"
    found.append(row(name, [f"{f['parts']['to the first'][-1]:.1f}" if f["parts"] else "-" for f in figures]))
    return found


def _quantity(of: dict[str, float] | None, ranges: bool) -> str:
    if of is None:
        return "-"
    return number(of["q50"]) + (f" ({number(of['q05'])} to {number(of['q95'])})" if ranges else "")


def number(value: float) -> str:
    """Three digits, and no powers of ten for what is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.{int(round(share, 2) != share)}%}"


NOTES = """
Clips count as music until a feature has been outside what held-out recordings (val) do for 4 s in a row; \
{kept:.1%} of their 60-s excerpts stay inside, and {test} of those of test ("real music", excerpts every 12 s). \
Features: median (5% to 95%) over all windows. Frechet distances of log-mel patches, lower is nearer; under real \
music stands the floor, val to test at as many patches. See docs/metrics.md.
"""


def _print(console: Console, groups: Sequence[Group], seconds: float) -> None:
    table = Table("")
    for group in groups:
        table.add_column(group.title, overflow="fold")
    for name, *values in rows(groups, seconds, ranges=False):
        table.add_row(name, *values, style="bold" if name.startswith("still music") else None)
    console.print(table)


def _save(
    folder: Path, groups: Sequence[Group], saved: list[dict[str, Any]], real: Real, config: EvaluateConfig
) -> None:
    band = {"low": real.band.low, "high": real.band.high, "kept": real.band.kept}
    described = {"survival": plain(asdict(config.survival)), "seed": config.seed, "band": band, "groups": saved}
    with finished(folder / "rollout.json") as partial:
        partial.write_text(json.dumps(_finite(described), indent=1, ensure_ascii=False), encoding="utf-8")
    header = ["", *(group.title for group in groups)]
    lines = [header, ["---"] * len(header), *rows(groups, config.survival.seconds, ranges=True)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    last = list(groups[0].figures["survival"].values())[-1]
    with finished(folder / "rollout.md") as partial:
        partial.write_text(text + NOTES.format(kept=real.band.kept, test=_percent(last)), encoding="utf-8")
    curves = {group.title: group.figures["curve"] for group in groups}
    rollout_plots.survival_curves(folder / "rollout-survival.png", curves, REAL)
    rollout_plots.features_over_time(
        folder / "rollout-features.png",
        [(f.name, f.unit) for f in (*JUDGED, BITS)],
        {group.title: _over_time(group.tracks) for group in groups if group.played},
        {f.name: (real.band.low[f.name], real.band.high[f.name]) for f in JUDGED},
        {name: (q["q05"], q["q95"]) for name, q in groups[0].figures["features"].items() if q},
    )
    spreads = {name: q["q95"] - q["q05"] for name, q in groups[0].figures["features"].items() if q}
    rollout_plots.slopes(
        folder / "rollout-drift.png", {group.title: group.figures["drift"] for group in groups}, spreads, REAL
    )


def _over_time(tracks: Sequence[Track]) -> dict[str, tuple[float, Floats]]:
    """Each feature as (seconds from value to value, f64(clips, values))."""
    every = [survival.series(track) for track in tracks]
    found = {f.name: (every[0][f.name][0], np.stack([of[f.name][1] for of in every])) for f in JUDGED}
    return found | {BITS.name: (SHORT, np.stack([track.short[:, -1] for track in tracks]))}


def _finite(value: Any) -> Any:
    """As JSON can hold it: infinities (a side of the band without limit) as null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
