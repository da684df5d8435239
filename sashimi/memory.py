"""What a training run will take of memory, what there is, and memory that the C library does not give back.

The estimate is measured: the bytes that autograd saves in a short window of the model itself, scaled up.
"""

import contextlib
import copy
import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sashimi.config import TrainConfig
from sashimi.kernels import resolve_backend
from sashimi.model import SaShiMi

# Long windows are measured by such a one: it takes half a second, and from here on all grows with the length.
MEASURED = 1 << 14
# Of the bytes that a C library or a GPU's allocator takes for those in use. glibc: real peaks of the resident set over
# the sum were 1.1 to 1.3 where layers walk the recurrence (2 and 8 blocks, windows of 2,048 to 131,072, batches of 1 to
# 8, from nothing and carried), 1.5 to 1.65 where blocks are recomputed, 1.3 to 1.8 where layers are convolutions.
# On a GPU it is a guess.
SPREAD, SPREAD_OTHERS, SPREAD_GPU = 1.3, 1.6, 1.2
LOGITS = 2  # float32 of a token's logits that live beside what is kept: they and their gradients
UNTOLD = (OSError, ValueError, StopIteration)  # what a system raises that does not tell what it has left
EXHAUSTED = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory", "CUDA out of memory")


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps from a forward pass: `fixed` for any window and batch, `sample` for each sample."""

    fixed: float
    sample: float

    def __call__(self, samples: int) -> float:
        return self.fixed + self.sample * samples


@dataclass(frozen=True)
class Estimate:
    """Peak memory of a run's training on one device, in bytes, beyond what the process took before.

    states      gradients, optimizer, mean and copies of the weights: whatever the window
    kept        activations where all are kept
    recomputed  activations where those of one block at a time are
    """

    states: float
    kept: Activations
    recomputed: Activations

    def total(self, window: int, batch: int, recompute: bool) -> float:
        return self.states + (self.recomputed if recompute else self.kept)(window * batch)

    def fitting(self, free: float, config: TrainConfig, period: int) -> list[str]:
        """Settings, as KEY=NOW -> VALUE, each of which alone brings the run below `free` bytes. Most is kept first."""
        window, batch, recompute = config.data.window, config.data.batch, config.trainer.activation_checkpointing
        found = []
        smaller = next((b for b in range(batch - 1, 0, -1) if self.total(window, b, recompute) <= free), None)
        if smaller:
            found.append(f"data.batch={batch} -> {smaller}")
        shorter = below(window, period)
        while shorter and self.total(shorter, batch, recompute) > free:
            shorter = below(shorter, period)
        if shorter:
            found.append(f"data.window={window} -> {shorter}")
        if not recompute:
            need = self.total(window, batch, True)
            if need <= free:
                found.append(f"trainer.activation_checkpointing=true, which needs about {size(need)}")
        return found


def preflight(need: Estimate, config: TrainConfig, free: int | None, period: int) -> tuple[str, str | None]:
    """One line on what a run will take, and a warning where that is more than there is free (None: not known).

    Processes beside each other on the CPU share its memory: `free` is of all.
    """
    takes = need.total(config.data.window, config.data.batch, config.trainer.activation_checkpointing)
    line = f"about {size(takes)}" + ("" if free is None else f" of {size(free)} free")
    if free is None or takes <= free:
        return line, None
    ways = need.fitting(free, config, period)
    todo = f"set {', or '.join(ways)}" if ways else "no batch or window of this model would"
    return line, f"this run may not fit into memory: {todo}"


def below(window: int, period: int) -> int:
    """The longest power of two below `window` that `period` divides; else half of it, a multiple of it; or 0."""
    power = 1 << (window - 1).bit_length() - 1
    return power if power % period == 0 else window // 2 // period * period


def size(count: float) -> str:
    """1.3 GB, 310 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# --- the estimate -------------------------------------------------------------------------------------


def estimate(model: SaShiMi, config: TrainConfig, cuda: bool = False) -> Estimate:
    """Measures the model in two short windows of batch 1, without its later blocks, which are like those before.

    It takes the kind of step that the run takes, on the CPU; no random number is drawn from the run's.
    """
    data, trainer = config.data, config.trainer
    full = min(max(data.window, 2 * model.period), MEASURED)
    part = max(1, full * 3 // 4 // model.period) * model.period
    backend = resolve_backend(model.config.layer.backend, "cuda" if cuda else "cpu", data.window)
    carry = data.carry_state or backend == "chunked"  # as `S4.forward` of long windows does
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), torch.autocast("cpu", torch.bfloat16, trainer.precision == "bf16-mixed"):
        (a, b), (c, d) = (saved_bytes(model, window, carry) for window in (part, full))
    give_back()
    others = SPREAD_GPU if cuda else SPREAD_OTHERS
    logits = LOGITS * 4 * model.config.vocab

    def line(less: float, more: float, spread: float) -> Activations:
        slope = max(0.0, (more - less) / (full - part))
        return Activations(spread * max(0.0, more - slope * full), spread * (slope + logits))

    weights = sum(p.nbytes for p in model.parameters())
    # Gradients, two moments, and a good copy of weights and moments; a mean and its copy.
    states = weights * (6 + 2 * (trainer.ema is not None) + (trainer.devices > 1))
    return Estimate(states, line(a, c, SPREAD if backend == "recurrence" else others), line(b, d, others))


def saved_bytes(model: SaShiMi, window: int, carry: bool) -> tuple[float, float]:
    """Bytes that autograd keeps from one window: where all blocks keep theirs, and where each is recomputed."""
    inside: dict[tuple[int, int], dict[int, int]] = {}
    blocks = {id(block): (i, j) for i in range(len(model.tiers)) for j, block in enumerate(model.tier(i)[:2])}
    inputs = dict.fromkeys(blocks.values(), 0)
    known = {p.untyped_storage()._cdata for p in model.parameters()}
    where = outside = (-1, -1)

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            inside.setdefault(where, {})[storage._cdata] = storage.nbytes()
        return t.detach()  # a result that is kept for itself would never be freed

    def enter(block: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal where
        where = blocks[id(block)]
        inputs[where] = given[0].nbytes

    def leave(block: nn.Module, *rest: Any) -> None:
        nonlocal where
        where = outside

    cut = copy.copy(model)
    cut._modules = dict(model._modules)
    cut.tiers = nn.ModuleList(nn.ModuleList(model.tier(i)[:2]) for i in range(len(model.tiers)))
    cut.recompute = False
    hooks = [
        handle
        for i in range(len(cut.tiers))
        for block in cut.tier(i)
        for handle in (block.register_forward_pre_hook(enter), block.register_forward_hook(leave))
    ]
    try:
        tokens = torch.zeros(1, window, dtype=torch.long, device=model.head.weight.device)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            logits = cut.scan(tokens, cut.start(1))[0] if carry else cut(tokens)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        del logits, loss
    finally:
        for handle in hooks:
            handle.remove()
    block_bytes = {key: sum(found.values()) for key, found in inside.items()}
    rest = block_bytes.pop(outside, 0)
    repeats = {key: len(model.tier(key[0])) / len(cut.tier(key[0])) for key in blocks.values()}
    every = sum(repeats[key] * count for key, count in block_bytes.items())
    return rest + every, rest + sum(repeats[key] * inputs[key] for key in inputs) + 2 * max(block_bytes.values())


# --- what there is ------------------------------------------------------------------------------------


def available(cuda: bool, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a process can still take, on a GPU or in main memory; None where neither can be read (macOS)."""
    if cuda:
        return int(torch.cuda.mem_get_info()[0])
    found = []
    with contextlib.suppress(*UNTOLD):
        lines = (proc / "meminfo").read_text().splitlines()
        found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    groups: list[str] = []
    with contextlib.suppress(*UNTOLD):
        groups = (proc / "self" / "cgroup").read_text().splitlines()
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path is one outside of it; the limit of every group above holds, too.
        parts = Path(path).parts[1:]
        for depth in range(len(parts) + 1):
            with contextlib.suppress(*UNTOLD):
                found.append(left_in(top.joinpath(*parts[:depth]), *names))
    return max(0, min(found)) if found else None


def left_in(folder: Path, limit: str, used: str, reclaimable: str) -> int:
    """Bytes left in a control group. Raises OSError or ValueError where it has no limit."""
    most, now = int((folder / limit).read_text()), int((folder / used).read_text())
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return most - now + int(stat.get(reclaimable, 0))


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in EXHAUSTED)


# --- the C library ------------------------------------------------------------------------------------


def give_back() -> None:
    """Memory that was freed goes back to the system; glibc only."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def hold() -> bool:
    """Lets freed memory stay with the process, for training takes the same again at every step; glibc only.

    By default it gives blocks above 32 MB back at once, and the kernel fills each new one with zeros; no threshold
    can be set above that, so there is to be no block apart from the heap at all.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (others have a mallopt, too, of other meaning)
        return bool(libc.mallopt(M_TRIM_THRESHOLD, -1) and libc.mallopt(M_MMAP_MAX, 0))
    except (OSError, TypeError, AttributeError):
        return False
