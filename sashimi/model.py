"""SaShiMi: the wiring of its tiers, and the state that a sequence leaves behind.

Goel, Gu, Donahue, Re, "It's Raw! Audio Generation with State-Space Models", arXiv:2202.09729.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sashimi.config import ModelConfig
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.kernels.system import System
from sashimi.layers import S4, Block, DownPool, FeedForward, UpPool, WeightNormLinear


@dataclass(frozen=True)
class State:
    """All that B sequences leave behind: from here they go on as if they had never stopped.

    values    f(B S), in the order of `SaShiMi.layout`: SSM states, what up-pools owe, what down-pools hold
    position  i(B), tokens the model has consumed = index of the next token; all of one phase (mod the period)
    pending   i(B), the token to consume next; None for a state of `scan` and `step`, which know none
    """

    values: Tensor
    position: Tensor
    pending: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    def select(self, index: Sequence[int] | Tensor) -> "State":
        """The given sequences, in that order; an index may repeat (a fork)."""
        i = torch.as_tensor(index, dtype=torch.long)
        pending = None if self.pending is None else self.pending[i]
        return State(self.values[i.to(self.values.device)], self.position[i], pending)

    @staticmethod
    def concat(states: Sequence["State"]) -> "State":
        """One state of several. The model checks that their phases agree when it runs on from there.

        Raises UserError where some have a pending token and some have none.
        """
        pending = [s.pending for s in states if s.pending is not None]
        if pending and len(pending) != len(states):
            raise UserError("cannot join states with and without a pending token")
        return State(
            torch.cat([s.values for s in states]),
            torch.cat([s.position for s in states]),
            torch.cat(pending) if pending else None,
        )

    def save(self, path: Path) -> None:
        """Write to a safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {"values": self.values.contiguous(), "position": self.position}
        if self.pending is not None:
            tensors["pending"] = self.pending
        with finished(path) as partial:
            save_file(tensors, partial, {"format": "sashimi-state"})

    @staticmethod
    def load(path: Path) -> "State":
        """Read what `save` wrote. Raises UserError for any other file."""
        try:
            tensors = load_file(path)
            return State(tensors["values"], tensors["position"], tensors.get("pending"))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise UserError(f"{path} is not a saved state of this program: {error}") from None


class SaShiMi(nn.Module):
    """The model: tokens i(B L) to logits f(B L vocab) of the token that follows each.

    Tier 0 runs at the sample rate; down-pools feed the tiers below, whose outputs come back up one pooled
    step late. `forward`, `scan` and `step` share one wiring and give the same numbers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # blocks' activations in the backward pass: training in half the memory, 40% slower
        widths = [config.d_model * config.expand**i for i in range(len(config.pool) + 1)]
        self.embedding = nn.Embedding(config.vocab, config.d_model, _weight=smooth_embedding(config))
        self.down_pools = nn.ModuleList(
            DownPool(H, p, config.expand) for H, p in zip(widths, config.pool, strict=False)
        )
        self.up_pools = nn.ModuleList(UpPool(H, p, config.expand) for H, p in zip(widths, config.pool, strict=False))
        self.tiers = nn.ModuleList(nn.ModuleList(self._blocks(H)) for H in widths)
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab)

    def _blocks(self, H: int) -> list[Block]:
        config, blocks = self.config, []
        for _ in range(config.n_layers):
            blocks.append(Block(S4(H, config.d_state, config.layer, config.dropout, config.glu)))
            if config.ff:
                blocks.append(Block(FeedForward(H, config.ff, config.dropout)))
        return blocks

    def tier(self, i: int) -> list[Block]:
        """The residual blocks of tier i, top tier first."""
        return list(cast(Iterable[Block], self.tiers[i]))

    @property
    def period(self) -> int:
        """Samples after which every tier has stepped: the product of the pooling factors."""
        return math.prod(self.config.pool)

    @property
    def start_token(self) -> int:
        """The token of silence, which precedes every sequence."""
        return self.config.vocab // 2

    # --- state

    def layout(self) -> dict[str, tuple[int, ...]]:
        """What a state holds of each sequence, in order: name to shape.

        gathered.I  (p, H)  inputs of down-pool I so far, zeros after them
        owed.I      (p, H)  the block of up-pool I in use; the phase says how far
        ssm.I.J     (H, N)  state of the S4 layer in block J of tier I, [Re x, Im x]
        """
        layout: dict[str, tuple[int, ...]] = {}
        for i in range(len(self.tiers)):
            if i < len(self.config.pool):
                p, H = self.config.pool[i], self.config.d_model * self.config.expand**i
                layout[f"gathered.{i}"] = layout[f"owed.{i}"] = (p, H)
            for j, block in enumerate(self.tier(i)):
                if isinstance(block.layer, S4):
                    layout[f"ssm.{i}.{j}"] = (block.layer.H, block.layer.N)
        return layout

    def start(self, batch: int) -> State:
        """Position 0 of `batch` sequences, with the start token pending."""
        size = sum(math.prod(shape) for shape in self.layout().values())
        weight = self.head.weight
        values = torch.zeros(batch, size, dtype=weight.dtype, device=weight.device)
        return State(values, torch.zeros(batch, dtype=torch.long), torch.full((batch,), self.start_token))

    def unpack(self, state: State) -> dict[str, Tensor]:
        """The named parts of a state, each f(B *shape). Raises UserError if it is not one of this model."""
        layout = self.layout()
        sizes = [math.prod(shape) for shape in layout.values()]
        if state.values.shape[1] != sum(sizes):
            raise UserError(
                f"a state of {state.values.shape[1]} values does not fit this model, whose states have {sum(sizes)}"
            )
        parts = state.values.to(self.head.weight.dtype).split(sizes, dim=1)
        return {name: part.unflatten(1, layout[name]) for name, part in zip(layout, parts, strict=True)}

    def pack(self, parts: dict[str, Tensor], position: Tensor, pending: Tensor | None = None) -> State:
        """The inverse of `unpack`."""
        return State(torch.cat([parts[name].flatten(1) for name in self.layout()], dim=1), position, pending)

    def phase(self, position: Tensor) -> int:
        """Where in the period sequences stand. Raises UserError unless it is one place for all."""
        phases = (position % self.period).unique().tolist()
        if len(phases) != 1:
            raise UserError(f"sequences of one batch must have one phase mod {self.period}, got {phases}")
        return phases[0]

    # --- running

    def forward(self, tokens: Tensor) -> Tensor:
        """Convolution from the start of a sequence. i(B L) -> f(B L vocab), any L."""
        return self._head(self._tier(0, self.embedding(tokens.long()), 0, None, None))

    def scan(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Convolution from a state. i(B L), state -> f(B L vocab), the state after them. Any L >= 1."""
        parts = self.unpack(state)
        x = self._tier(0, self.embedding(tokens.long()), self.phase(state.position), parts, None)
        return self._head(x), self.pack(parts, state.position + tokens.shape[1])

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the recurrence. i(B), state -> f(B vocab), the next state."""
        parts = self.unpack(state)
        logits = self.advance(tokens, parts, self.phase(state.position), self.systems())
        return logits, self.pack(parts, state.position + 1)

    def systems(self) -> dict[str, System]:
        """The discretised systems of every S4 layer under its name in `layout`: what a recurrence needs."""
        dtype = self.head.weight.dtype
        return {
            f"ssm.{i}.{j}": block.layer.system(dtype)
            for i in range(len(self.tiers))
            for j, block in enumerate(self.tier(i))
            if isinstance(block.layer, S4)
        }

    @torch.no_grad()
    def export(self) -> dict[str, Tensor]:
        """Everything that playing needs, as plain tensors in float32 on the CPU.

        embedding (vocab H), norm.weight, norm.bias, head.weight, head.bias
        down.I.weight (expand*H, p*H), down.I.bias, up.I.weight (p*H, expand*H), up.I.bias: features vector by vector
        block.I.J.norm: m and s of the block's norm, then of an S4 layer
            a, b, c and for DPLR p, q (H, N) of its `System`, D, linear.weight, linear.bias
        of a feed-forward layer
            expand.weight, expand.bias, contract.weight, contract.bias
        """
        tensors = {"embedding": self.embedding.weight}

        def linear(name: str, layer: nn.Linear | WeightNormLinear, order: str = "") -> None:
            # Pools flatten their features channel by channel.
            tensors[f"{name}.weight"] = rearrange(layer.weight, order, p=pool) if order else layer.weight
            tensors[f"{name}.bias"] = layer.bias

        for i, pool in enumerate(self.config.pool):
            linear(f"down.{i}", cast(DownPool, self.down_pools[i]).linear, "r (h p) -> r (p h)")
            linear(f"up.{i}", cast(UpPool, self.up_pools[i]).linear, "(h p) c -> (p h) c")
            tensors[f"up.{i}.bias"] = rearrange(tensors[f"up.{i}.bias"], "(h p) -> (p h)", p=pool)
        for i in range(len(self.tiers)):
            for j, block in enumerate(self.tier(i)):
                name, layer = f"block.{i}.{j}", block.layer
                tensors[f"{name}.norm"] = torch.cat([block.norm.m, block.norm.s])
                if isinstance(layer, FeedForward):
                    linear(f"{name}.expand", layer.expand_linear)
                    linear(f"{name}.contract", layer.contract_linear)
                else:
                    system = layer.system()
                    tensors |= {f"{name}.{key}": t for key, t in vars(system).items() if t is not None}
                    tensors[f"{name}.D"] = layer.D
                    linear(f"{name}.linear", layer.output_linear)
        tensors |= {"norm.weight": self.norm.weight, "norm.bias": self.norm.bias}
        linear("head", self.head)
        return {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in tensors.items()}

    def advance(self, tokens: Tensor, parts: dict[str, Tensor], phase: int, systems: dict[str, System]) -> Tensor:
        """`step` for loops: i(B) -> f(B vocab); replaces what changes in `parts` (the dict, never a tensor)."""
        x = self.embedding(tokens.long())[:, None]
        return self._head(self._tier(0, x, phase, parts, systems))[:, 0]

    def _head(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))

    def _tier(
        self, i: int, x: Tensor, position: int, parts: dict[str, Tensor] | None, systems: dict[str, System] | None
    ) -> Tensor:
        """Tier i and all below it on x: f(B L H), whose first vector has index `position` (mod the period).

        Reads and replaces the state in `parts`; without it starts from zero and forgets.
        """
        if i < len(self.config.pool):
            x = x + self._from_below(i, x, position, parts, systems)
        y = x
        for j, block in enumerate(self.tier(i)):
            name = f"ssm.{i}.{j}"
            state = None if parts is None else parts.get(name)
            system = None if systems is None else systems.get(name)
            if self.recompute and torch.is_grad_enabled():
                y, state = checkpoint(block, y, state, system, use_reentrant=False)
            else:
                y, state = block(y, state, system)
            if parts is not None and state is not None:
                parts[name] = state
        return y + x

    def _from_below(
        self, i: int, x: Tensor, position: int, parts: dict[str, Tensor] | None, systems: dict[str, System] | None
    ) -> Tensor:
        """What the tiers below i contribute: one vector for each of x, a pooled step late."""
        p, (B, L, H) = self.config.pool[i], x.shape
        held = position % p  # vectors of an unfinished pool
        owed = x.new_zeros(B, p, H) if parts is None else parts[f"owed.{i}"]
        gathered = x if parts is None else torch.cat([parts[f"gathered.{i}"][:, :held], x], dim=1)
        pools, rest = divmod(held + L, p)
        if pools:
            z = self.down_pools[i](gathered[:, : pools * p])
            z = self.up_pools[i](self._tier(i + 1, z, position // p, parts, systems))
            owed = torch.cat([owed, z], dim=1)
        if parts is not None:
            parts[f"owed.{i}"] = owed[:, -p:]
            parts[f"gathered.{i}"] = torch.nn.functional.pad(gathered[:, pools * p :], (0, 0, 0, p - rest))
        return owed[:, held : held + L]


def smooth_embedding(config: ModelConfig) -> Tensor:
    """f(vocab d_model), of unit variance as published, but neighbouring levels begin alike: random Fourier features.

    Independent rows learn one by one that levels have an order (docs/experiments.md).
    """
    level = torch.linspace(-1, 1, config.vocab)[:, None]
    frequency, phase = 8 * torch.randn(config.d_model), 2 * math.pi * torch.rand(config.d_model)
    return math.sqrt(2) * torch.cos(level * frequency + phase)
