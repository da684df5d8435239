"""What adapting a language model takes. `python -m sashimi.lyrics.plan --help`"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from sashimi import cli
from sashimi.errors import UserError
from sashimi.lyrics import dataset
from sashimi.lyrics.config import CONFIGS, TrainSettings
from sashimi.progress import clock
from sashimi.settings import at_least, one_of

if TYPE_CHECKING:
    from sashimi.lyrics.sizes import Size

GIB = 2**30
RESERVE = 1.0  # GiB that CUDA, its libraries and the gaps between tensors take
CHARACTERS = 3.5  # of lyrics in a token, roughly; fewer in languages that the tokeniser saw less of
# Dense bf16 (T4: fp16) with sums in fp32, in TFLOP/s, by NVIDIA's data sheets.
RATES = {"t4": 65, "a10": 125, "l4": 121, "rtx3090": 71, "rtx4090": 165, "a100": 312, "h100": 989}
MOST_BATCH = 4096


@dataclass
class PlanSettings(TrainSettings):
    """`python -m sashimi.lyrics.plan`. configs/plan.yaml explains every key and holds the defaults.

    gpu         GiB of memory
    device      whose arithmetic the time is estimated with;   efficiency: the share of it that is reached
    songs       to learn from;   tokens: of one, on average
    """

    gpu: float = 24
    device: str = "rtx4090"
    efficiency: float = 0.35
    songs: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("device", self.device, tuple(RATES))
        at_least("songs", self.songs, 1)
        at_least("tokens", self.tokens, 1)
        if not self.gpu > 0:
            raise UserError(f"gpu={self.gpu:g} must be above 0, in GiB")
        if not 0 < self.efficiency <= 1:
            raise UserError(f"efficiency={self.efficiency:g} must be above 0 and at most 1")


@dataclass(frozen=True)
class Way:
    """A method with or without gradient checkpointing. memory: bytes at this batch; most: songs at once that fit."""

    size: "Size"
    checkpointing: bool
    memory: float
    most: int
    seconds: float


def ways(sizes: list["Size"], settings: PlanSettings, songs: int, tokens: int) -> list[Way]:
    """Every method, without and with gradient checkpointing. Memory is for songs of data.max_tokens, the longest."""
    found = []
    room = (settings.gpu - RESERVE) * GIB
    length, batch = settings.data.max_tokens, settings.training.batch
    work = songs * tokens * settings.training.epochs
    speed = RATES[settings.device] * 1e12 * settings.efficiency
    for size in sizes:
        for checkpointing in (False, True):
            one, none = size.memory(1, length, checkpointing), size.memory(0, length, checkpointing)
            most = max(0, min(MOST_BATCH, int((room - none) // (one - none))))
            memory = size.memory(batch, length, checkpointing) + RESERVE * GIB
            found.append(Way(size, checkpointing, memory, most, work * size.flops(checkpointing) / speed))
    return found


def amount(settings: PlanSettings) -> tuple[int, int, str]:
    """Songs, tokens of one, and for people where they are from. Raises UserError for a damaged data set."""
    if settings.data.path is None:
        return settings.songs or 1000, settings.tokens or 300, "as given" if settings.songs else "assumed"
    texts = [len(song.lyrics) for song in dataset.songs(settings.data.path, "train")]
    if not texts:
        raise UserError(f"{settings.data.path} has no songs to learn from")
    songs = settings.songs or min(len(texts), settings.data.songs or len(texts))
    mean = sum(texts) / len(texts)
    tokens = settings.tokens or min(settings.data.max_tokens, round(mean / CHARACTERS) + 40)  # and its prompt
    return songs, tokens, f"of {settings.data.path}: {mean:.0f} characters a song"


def plan(settings: PlanSettings, experiment: str | None = None, console: Console | None = None) -> list[Way]:
    """Prints what it would take."""
    from sashimi.lyrics import sizes

    console = console or Console(highlight=False, soft_wrap=True, markup=False)
    songs, tokens, source = amount(settings)
    config = sizes.config_of(settings.model.name)
    found = [sizes.size(config, method, settings.lora) for method in sizes.METHODS]
    first, adapted = found[0], found[1]
    console.print(
        f"{settings.model.name}: {first.total:,} parameters, {first.layers} layers of width {first.hidden}, "
        f"vocabulary {first.vocabulary:,}"
    )
    console.print(
        f"LoRA of rank {settings.lora.r}: {adapted.trained:,} parameters learn ({adapted.trained / first.total:.2%})\n"
    )
    made = ways(found, settings, songs, tokens)
    console.print(_memory(made, settings))
    console.print(
        f"In GiB, {settings.training.batch} songs of {settings.data.max_tokens} tokens at a time (the longest); "
        f"computation in bf16; {RESERVE:g} GiB of all is CUDA's own. Kept: activations for "
        "the backward pass. Again: gradient checkpointing, which computes them a second time. Most: songs at a time "
        "that fit."
    )
    console.print(
        f"Time: an estimate for {songs:,} songs of {tokens} tokens ({source}), {settings.training.epochs} epochs, at "
        f"{settings.efficiency:.0%} of the {RATES[settings.device]} TFLOP/s of {settings.device}; validation not "
        "counted, nor what QLoRA's unpacking of weights costs.\n"
    )
    console.print(_matrices(first, settings.lora.r))
    side = round(first.total**0.5)
    console.print(
        f"A model is not one matrix: as one, this would be {side:,} x {side:,}, and rank 1 would have {2 * side:,} "
        f"values ({2 * side / first.total:.4%}). An adapter has r (in + out) values for each matrix: "
        f"{adapted.trained:,} here."
    )
    return made


def _memory(made: list[Way], settings: PlanSettings) -> Table:
    fits = f"in {settings.gpu:g}?"
    table = Table(
        "", "again", "weights", "learnt", "kept", "logits", "all", fits, "most", "time",
        box=box.SIMPLE, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    tokens = settings.training.batch * settings.data.max_tokens
    for way in made:
        size = way.size
        parts = size.weights(), size.learnt(), size.activations(tokens, way.checkpointing), size.logits(tokens)
        table.add_row(
            size.method, "yes" if way.checkpointing else "no", *(f"{part / GIB:.2f}" for part in parts),
            f"{way.memory / GIB:.2f}", "yes" if way.memory <= settings.gpu * GIB else "no",
            str(way.most) if way.most else "none", clock(way.seconds) if way.most else "",
        )  # fmt: skip
    return table


def _matrices(size: "Size", rank: int) -> Table:
    """Whole matrices against rank 1 and the rank that is set, by the model's real shapes."""
    table = Table("matrices", "values of one", "rank 1", "", f"rank {rank}", "", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for (out, into), count in sorted(size.matrices.items(), key=lambda item: -item[0][0] * item[0][1]):
        whole = out * into
        cells = [f"{count} of {out:,} x {into:,}", f"{whole:,}"]
        for r in (1, rank):
            cells += [f"{r * (out + into):,}", f"{r * (out + into) / whole:.3%}"]
        table.add_row(*cells)
    return table


def make() -> tuple[type, Callable[..., Any]]:
    return PlanSettings, plan


if __name__ == "__main__":
    cli.run(CONFIGS, "plan", make)
