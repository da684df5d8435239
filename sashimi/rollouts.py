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

from sashimi import data, distance, generation, memorisation, rollout_tables, survival
from sashimi.checkpoint import LoadedModel
from sashimi.clips import Recorder, summary
from sashimi.codec import Codec, Tokens
from sashimi.config import EvaluateConfig
from sashimi.data import open_tokens
from sashimi.distance import Embedding
from sashimi.engines import make_engine
from sashimi.errors import UserError
from sashimi.fingerprints import Codes, Fingerprinter
from sashimi.metrics import BITS, LONG_STEP, SHORT, SHORT_FEATURES, Floats, Listener, Track
from sashimi.progress import bar
from sashimi.real_music import Real, listen
from sashimi.rollout_tables import MARKS, REAL, Group
from sashimi.survival import JUDGED

PART = 60.0  # seconds of the parts whose distance to the first is taken; half of a clip that has no two of them


@dataclass(frozen=True)
class Contender:
    """A model to be played, by the title that its column has, and the data set that it is held against."""

    title: str
    model: LoadedModel
    folder: Path


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
                tracks, codes = play(config, folder, contender, count, continued, console)
                title = f"{contender.title}, continuing" if continued else contender.title
                groups.append(_group(title, tracks, real, config))
                drawn = config.survival.sampling(contender.model.metadata.sampling)
                groups[-1].figures["sampling"] = asdict(drawn)
                if config.survival.memorisation:
                    groups[-1].figures["memorisation"] = look_up(contender.folder, codec, config, codes, console)
    for group in groups:
        clips = [{**asdict(end), "played": track.seconds} for end, track in zip(group.ends, group.tracks, strict=True)]
        saved.append({"title": group.title, **group.figures, "clips": clips})
    first = next(iter(known.values()))
    rollout_tables.show(console, groups, config.survival.seconds)
    rollout_tables.save(folder, groups, saved, first, config)
    console.print(f"saved in {folder}: rollout.json, .md, rollout-survival.png, -features.png, -drift.png")


# --- playing -----------------------------------------------------------------------------------------


def play(
    config: EvaluateConfig, folder: Path, contender: Contender, count: int, continued: bool, console: Console
) -> tuple[list[Track], list[Codes]]:
    """Clips of a model, measured while they are played, and their fingerprints, if these are asked for.

    With survival.keep also as FLAC in folder/rollout. Holds what was measured and no more than a block of sound.
    """
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
    fingerprinters = [Fingerprinter(rate) for _ in range(count if settings.memorisation else 0)]
    blocks = generation.generate(
        engine, beginnings, length, settings.sampling(model.metadata.sampling), config.seed,
        numbers=range(count), n_batch=count,
    )  # fmt: skip
    whole = False
    try:
        with bar(console, f"playing {name}") as update:
            for block in blocks:
                bits = -block.logp / math.log(2)
                waveforms = [codec.decode(tokens) for tokens in block.tokens]
                for listener, waveform, surprise in zip(listeners, waveforms, bits, strict=True):
                    listener.add(waveform, surprise)
                for fingerprinter, waveform in zip(fingerprinters, waveforms, strict=False):
                    fingerprinter.add(waveform)
                for recorder, tokens, likelihood in zip(recorders, block.tokens, block.log_likelihoods, strict=False):
                    recorder.add(tokens, likelihood)
                update(*summary(block, count if block.last else 0, count, rate))
        whole = True
    finally:
        for recorder in recorders:
            recorder.close(whole)
    return [listener.finish() for listener in listeners], [of.codes() for of in fingerprinters]


def look_up(
    folder: Path, codec: Codec, config: EvaluateConfig, clips: Sequence[Codes], console: Console
) -> dict[str, Any]:
    """How near clips come to a data set's train split, beside test recordings; clips: the fingerprints of each.

    In words under "verdict". Where there is nothing to look in, that is all, and says so.
    """
    try:
        index = memorisation.open_index(folder, "train", codec.config.rate, console)
    except UserError as error:
        return {"verdict": [f"not looked up in the training set: {error}"]}
    usual = memorisation.usual(index, open_tokens(folder, "test", codec), config.survival.seconds, console=console)
    began, found = time.monotonic(), []
    with bar(console, "clips beside the training set") as update:
        for done, codes in enumerate(clips, 1):
            found.append(memorisation.look_up(index, codes))
            left = (time.monotonic() - began) * (len(clips) / done - 1)
            update(done / len(clips), f"{done} of {len(clips)} clips", left)
    named = {f"clip {number:02}": near for number, near in enumerate(found)}
    return {
        "train split of": str(folder),
        "held out": [near.distance for near in usual if near],
        "clips": [near and asdict(near) for near in found],
        "verdict": memorisation.verdict(named, usual),
    }


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
    # Excerpts overlap, and say no more than as many that do not.
    independent = sum(max(1.0, track.seconds / config.survival.seconds) for track in real.test)
    group = _group(title, tracks, real, config, False, min(independent, len(tracks)))
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


def _group(
    title: str,
    tracks: list[Track],
    real: Real,
    config: EvaluateConfig,
    played: bool = True,
    independent: float | None = None,
) -> Group:
    ends = [survival.end_of(track, real.band) for track in tracks]
    lengths = [track.seconds for track in tracks]
    marks = [mark for mark in MARKS if mark <= config.survival.seconds]
    grid = np.arange(0, config.survival.seconds + 0.5, 0.5).tolist()
    over_time = [survival.series(track) for track in tracks]
    columns = {f.name: np.concatenate([of[f.name][1] for of in over_time]) for f in JUDGED}
    if played:
        columns[BITS.name] = np.concatenate([track.short[:, -1] for track in tracks])
    sure = survival.intervals(ends, lengths, grid, independent)
    figures: dict[str, Any] = {
        "survival": dict(zip(map(str, marks), survival.curve(ends, lengths, marks), strict=True)),
        "survival, 95% interval": dict(
            zip(map(str, marks), survival.intervals(ends, lengths, marks, independent), strict=True)
        ),
        "causes": dict(Counter(end.cause for end in ends if end.cause)),
        "features out first": dict(Counter(end.feature for end in ends if end.feature)),
        "curve": {
            "seconds": grid,
            "share": survival.curve(ends, lengths, grid),
            "low": [of and of[0] for of in sure],
            "high": [of and of[1] for of in sure],
        },
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
