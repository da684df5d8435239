"""The model played by one native call a block of steps, on the CPU: native.cpp, which says how its data lies."""

import ctypes
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sashimi import compiler
from sashimi.codec import Tokens
from sashimi.config import SamplingConfig
from sashimi.engines.base import Engine, Keys
from sashimi.errors import UserError
from sashimi.model import SaShiMi, State

SOURCE = Path(__file__).with_name("native.cpp")
Array = NDArray[Any]
PANEL = 16  # rows of a matrix that lie together; native.cpp
FEED_FORWARD, DIAGONAL, LOW_RANK = 0, 1, 2
OUT_OF_MEMORY, NO_THREAD = -1, -2


class NativeEngine(Engine):
    """Plays a model in float32; with `half`, its dense weights are rounded to bfloat16.

    threads: at most, None: as many as torch uses. Raises BuildError where native.cpp cannot be compiled.
    """

    def __init__(self, model: SaShiMi, *, half: bool = False, threads: int | None = None) -> None:
        self.model, self.threads = model, threads or torch.get_num_threads()
        self.description = f"native, {'bf16' if half else 'fp32'}, up to {self.threads} threads"
        self.pace = Pace(self.threads)
        self.library = compiler.library(SOURCE)
        description, rest, dense = packed(model, self.library.sashimi_lanes())
        if half:
            dense = bfloat16_pairs(dense)
        self.library.sashimi_player.restype = ctypes.c_void_p
        self.library.sashimi_run.restype = ctypes.c_int64
        player = self.library.sashimi_player(
            _pointer(description), _pointer(rest), ctypes.c_int64(rest.size), _pointer(dense),
            ctypes.c_int64(dense.size // 2 if half else dense.size), ctypes.c_int(half),
        )  # fmt: skip
        if not player:
            raise MemoryError("there is no memory for the model")
        self.player = ctypes.c_void_p(player)

    def __del__(self) -> None:
        if hasattr(self, "player"):
            self.library.sashimi_free(self.player)

    def start(self, batch: int) -> State:
        return self.model.start(batch)

    def prefill(self, tokens: Tokens, state: State) -> State:
        return self._call(state, tokens.shape[1], given=tokens) if tokens.shape[1] else state

    def run(
        self, state: State, n: int, sampling: SamplingConfig, keys: Keys
    ) -> tuple[Tokens, NDArray[np.float64], State]:
        tokens, logp = _room((state.batch, n), np.uint8), _room((state.batch, n), np.float64)
        drawing = np.array([getattr(sampling, field.name) for field in fields(SamplingConfig)], np.float64)
        return (
            tokens,
            logp,
            self._call(state, n, drawing=drawing, keys=np.array(keys, np.uint64), out=tokens, logp=logp),
        )

    def score(self, state: State, tokens: Tokens) -> tuple[NDArray[np.float64], State]:
        """The log-probabilities f64(B n) of given tokens (B n), each after those before it, and the last state."""
        logp = _room(tokens.shape, np.float64)
        return logp, self._call(state, tokens.shape[1], given=tokens, logp=logp)

    def logits(self, state: State, tokens: Tokens) -> NDArray[np.float32]:
        """The logits f(B n V) that given tokens (B n) were predicted by."""
        logits = _room((*tokens.shape, self.model.config.vocab), np.float32)
        self._call(state, tokens.shape[1], given=tokens, logp=_room(tokens.shape, np.float64), logits=logits)
        return logits

    def _call(
        self,
        state: State,
        n: int,
        *,
        given: Tokens | None = None,
        drawing: Array | None = None,
        keys: Array | None = None,
        out: Tokens | None = None,
        logp: Array | None = None,
        logits: Array | None = None,
    ) -> State:
        """One native call: hears n given tokens of every stream, or draws n into `out`. Returns the last state."""
        assert state.pending is not None
        self.model.unpack(state)  # raises for a state of another model
        self.model.phase(state.position)
        B = state.batch
        values = state.values.detach().cpu().contiguous().numpy().astype(np.float32)
        position = state.position.numpy().astype(np.int64)
        pending = state.pending.cpu().numpy().astype(np.int32)
        given = None if given is None else np.ascontiguousarray(given, np.uint8)
        threads = self.threads if given is not None else self.pace.threads(B)
        began = time.perf_counter()
        done = self.library.sashimi_run(
            self.player, ctypes.c_int(B), ctypes.c_int64(n), ctypes.c_int(threads),
            *map(_pointer, (position, keys, drawing, given, pending, values, out, logp, logits)),
        )  # fmt: skip
        if given is None:
            self.pace.note(B, threads, n / (time.perf_counter() - began))
        if done == OUT_OF_MEMORY:
            raise UserError(too_large(B))
        if done == NO_THREAD:
            raise UserError(f"the system starts no {self.threads} threads; lower engine.threads")
        if done < n:
            at = int(position[0]) + done
            raise UserError(f"the model's output at sample {at} is not a number: its weights or its state are damaged")
        return State(torch.from_numpy(values), state.position + n, torch.from_numpy(pending.astype(np.int64)))


class Pace:
    """How many threads play a block: all of them where each has streams of its own; where they would share one, all
    or one alone, whichever has been faster of late. Threads that share wait for each other after every layer, and
    that is slower than one alone when another program has their core. The choice changes no token.
    """

    TRIAL = 25  # blocks between two tries of what has been slower

    def __init__(self, threads: int) -> None:
        self.all, self.block = threads, 0
        self.rates: dict[tuple[int, int], float] = {}

    def threads(self, streams: int) -> int:
        if self.all == 1 or streams >= self.all:
            return self.all
        self.block += 1
        together, alone = (self.rates.get((streams, count)) for count in (self.all, 1))
        if together is None or alone is None:
            return self.all if together is None else 1
        faster, slower = (self.all, 1) if together > alone else (1, self.all)
        return faster if self.block % self.TRIAL else slower

    def note(self, streams: int, threads: int, rate: float) -> None:
        """rate: steps a second of a block."""
        self.rates[streams, threads] = rate


def too_large(batch: int) -> str:
    return f"{batch} streams at a time do not fit into memory; lower n_batch"


def _room(shape: tuple[int, ...], kind: type) -> Array:
    """An array to be filled. Raises UserError where there is no memory for it."""
    try:
        return np.empty(shape, kind)
    except MemoryError:
        raise UserError(too_large(shape[0])) from None


def _pointer(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


# --- weights as native.cpp reads them -----------------------------------------------------------------


def packed(model: SaShiMi, lanes: int) -> tuple[Array, Array, Array]:
    """A model's description i32, dense matrices f32, and everything else f32, in the order in which they are read.

    Raises UserError for weights that are not numbers.
    """
    config, tensors = model.config, {name: t.numpy() for name, t in model.export().items()}
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"the model holds NaN or infinite weights in {name}")
    widths = [config.d_model * config.expand**i for i in range(len(config.pool) + 1)]
    description = [config.vocab, config.d_state, int(config.glu), len(widths)]
    for H, p in zip(widths, [*config.pool, 0], strict=True):
        description += [H, p]
    rest: list[Array] = []
    dense: list[Array] = []

    def linear(weight: Array, bias: Array) -> None:
        dense.append(panels(weight))
        rest.append(padded(bias))

    rest.append(padded(tensors["embedding"]))
    for i, H in enumerate(widths):
        rest.append(padded(np.ones(H, np.float32)))
        if i < len(config.pool):
            p, below = config.pool[i], widths[i + 1]
            down = tensors[f"down.{i}.weight"].reshape(below, p, H)
            linear(padded(down).reshape(below, -1), tensors[f"down.{i}.bias"])
            weight, bias = tensors[f"up.{i}.weight"].reshape(p, H, below), tensors[f"up.{i}.bias"].reshape(p, H)
            linear(padded(weight, axis=1).reshape(-1, below), padded(bias).reshape(-1))
        blocks = model.tier(i)
        description.append(len(blocks))
        for j in range(len(blocks)):
            name = f"block.{i}.{j}"
            rest.append(tensors[f"{name}.norm"])
            if f"{name}.expand.weight" in tensors:
                description += [FEED_FORWARD, config.ff * H]
                for part in ("expand", "contract"):
                    linear(tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"])
                continue
            low_rank = f"{name}.p" in tensors
            description += [LOW_RANK if low_rank else DIAGONAL, 0]
            rest += [bank(tensors[f"{name}.{part}"], lanes) for part in ("acbpq" if low_rank else "ac")]
            rest.append(padded(tensors[f"{name}.D"]))
            weight, bias = tensors[f"{name}.linear.weight"], tensors[f"{name}.linear.bias"]
            for half in range(2 if config.glu else 1):
                linear(weight[half * H : (half + 1) * H], bias[half * H : (half + 1) * H])
    rest += [padded(tensors["norm.weight"]), padded(tensors["norm.bias"])]
    linear(tensors["head.weight"], tensors["head.bias"])
    return np.array(description, np.int32), flat(rest), flat(dense)


def flat(arrays: list[Array]) -> Array:
    return np.concatenate([array.ravel() for array in arrays])


def padded(array: Array, axis: int = -1) -> Array:
    """Zeros at the end of an axis, up to whole panels."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % PANEL)
    return np.pad(array, widths)


def panels(weight: Array) -> Array:
    """f(R K) -> f(R/16 K 16), both padded to whole panels."""
    weight = padded(padded(weight), axis=0)
    return weight.reshape(-1, PANEL, weight.shape[1]).swapaxes(1, 2)


def bank(array: Array, lanes: int) -> Array:
    """f(H N) with N as [re, im] -> f(H/lanes N/2 2 lanes), H padded to whole panels."""
    array = padded(array, axis=0)
    return array.reshape(-1, lanes, 2, array.shape[1] // 2).transpose(0, 3, 2, 1)


def bfloat16_pairs(dense: Array) -> NDArray[np.uint16]:
    """Panels f(... K 16) one after another to the nearest bfloat16 of each, as bits, two columns to a word."""
    bits = torch.from_numpy(dense).to(torch.bfloat16).view(torch.uint16).numpy()
    return np.ascontiguousarray(bits.reshape(-1, 2, PANEL).swapaxes(1, 2))  # the lower half of a word comes first
