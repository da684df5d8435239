"""What training a language model takes: parameters, memory, arithmetic. Counted on the model's code, without weights.

A model is built from its config on torch's meta device, which has shapes and no memory. What a backward pass needs is
counted by a forward pass on fake tensors: the sizes of all that autograd saves. Two figures are conventions: AdamW as
in mixed precision, 16 bytes a parameter (Rajbhandari et al. 2020, ZeRO, section 3.1), and 4.127 bits for a weight in
NF4 with double quantisation (Dettmers et al. 2023, QLoRA, section 3: 4 + 8/64 + 32/(64 256)).
"""

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from sashimi.errors import UserError
from sashimi.lyrics import hub, lora, weights
from sashimi.lyrics.config import Lora

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
LEARNT_BYTES = 4 + 4 + 8  # of a parameter that learns: itself and its gradient in fp32, AdamW's two moments
LOGIT_BYTES = 12  # of a logit at the loss: in fp32 itself, its log-softmax, its gradient
PROBE = 128  # tokens of the pass that is counted
METHODS = ("QLoRA", "LoRA", "full")


def config_of(name: str) -> Any:
    """The config of a folder, a .gguf file or a hub id; of the last, config.json is all that is downloaded.

    Raises UserError where there is none.
    """
    path = Path(name).expanduser()
    if not path.exists():
        path = hub.file(f"{weights.hub_id(name)}/config.json").parent
    try:
        if path.is_file():
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"the config of {name} cannot be read: {said}") from None


@dataclass(frozen=True)
class Size:
    """A model, and what training it by one method needs.

    total, trained  parameters; tied embeddings once
    quantised       of the total, those that QLoRA holds in 4 bits: every linear layer but the output
    multiplied      of the total, those that every token is multiplied with: all but the input embedding
    matrices        shape of every linear layer (out, in) -> how many there are
    saved           bytes that one layer keeps of a token for the backward pass, and of a token by all else
    """

    method: str
    total: int
    trained: int
    quantised: int
    multiplied: int
    matrices: Counter[tuple[int, int]]
    saved: tuple[float, float]
    layers: int
    hidden: int
    vocabulary: int
    bytes: int

    def weights(self) -> float:
        """Bytes of what does not learn."""
        if self.method == "full":
            return 0.0
        if self.method == "QLoRA":
            return self.quantised * NF4_BITS / 8 + (self.total - self.quantised) * self.bytes
        return float(self.total * self.bytes)

    def learnt(self) -> float:
        """Bytes of what learns, with gradients and moments."""
        return float(self.trained * LEARNT_BYTES)

    def activations(self, tokens: int, checkpointing: bool) -> float:
        """Bytes of so many tokens, without logits. checkpointing: every layer's input, and one layer in full."""
        layer, rest = self.saved
        if checkpointing:
            return tokens * (self.layers * self.hidden * self.bytes + layer + rest)
        return tokens * (self.layers * layer + rest)

    def logits(self, tokens: int) -> float:
        return float(tokens * self.vocabulary * LOGIT_BYTES)

    def memory(self, batch: int, length: int, checkpointing: bool) -> float:
        tokens = batch * length
        return self.weights() + self.learnt() + self.activations(tokens, checkpointing) + self.logits(tokens)

    def flops(self, checkpointing: bool) -> float:
        """Of a token: 2 a weight forward, 2 back to the activations, 2 to the weights' gradients; 2 more forward."""
        adapter = 6 * self.trained if self.method != "full" else 0
        return (6 if self.method == "full" else 4) * self.multiplied + adapter + 2 * self.multiplied * checkpointing


def size(config: Any, method: str, settings: Lora, dtype: torch.dtype = torch.bfloat16) -> Size:
    """dtype: of the computation, and of weights that do not learn. Raises UserError for an unknown architecture."""
    deep = config.get_text_config().num_hidden_layers
    model = _built(config, dtype)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    total = sum(p.numel() for p in model.parameters())
    tied = output is not None and output.weight is embedding.weight
    vocabulary = embedding.num_embeddings
    multiplied = total if tied else total - embedding.weight.numel()
    quantised = sum(m.weight.numel() for m in linear if m is not output)
    matrices = Counter((m.out_features, m.in_features) for m in linear if m is not output)
    if method != "full":
        model, _, _ = lora.adapted(model, settings, [])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    saved = [_saved(_small(config, layers), method, settings, dtype) for layers in (1, 2)]
    layer = saved[1] - saved[0]
    return Size(
        method, total, trained, quantised, multiplied, matrices, (layer, max(0.0, saved[0] - layer)), deep,
        config.get_text_config().hidden_size, vocabulary, dtype.itemsize,
    )  # fmt: skip


def _small(config: Any, layers: int) -> Any:
    """The same with fewer layers."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:layers]
    return small


def _built(config: Any, dtype: torch.dtype) -> Any:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        raise UserError(f"this is not the config of a language model that transformers knows: {error}") from None


def _saved(config: Any, method: str, settings: Lora, dtype: torch.dtype) -> float:
    """Bytes that autograd keeps of a token, parameters and logits not counted."""
    model = _built(config, dtype)
    if method != "full":
        model, _, _ = lora.adapted(model, settings, [])
    model.train()
    with FakeTensorMode():
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
            for name, b in module._buffers.items():
                if b is not None:
                    module._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            if x.untyped_storage()._cdata not in own:
                kept[x.untyped_storage()._cdata] = x  # held: its place must not be given to another
            return x

        body = model.get_base_model().base_model if method != "full" else model.base_model
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32),
        ):
            body(input_ids=torch.zeros(1, PROBE, dtype=torch.long), use_cache=False)
        return sum(x.untyped_storage().nbytes() for x in kept.values()) / PROBE
