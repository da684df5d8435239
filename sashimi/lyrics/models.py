"""A language model by its name -> weights, tokenizer and what it is; alone or with an adapter.

Weights are read from safetensors and GGUF only (nothing is unpickled), and no code of a model's own is run.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from sashimi.errors import UserError
from sashimi.lyrics import adapters, weights
from sashimi.lyrics.weights import Base

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass
class Loaded:
    """model: on its device, in evaluation mode unless loaded for training; card: of the adapter."""

    model: Any
    tokenizer: Any
    base: Base
    adapter: Path | None = None
    card: dict[str, Any] | None = None

    @property
    def context(self) -> int | None:
        """Tokens that the model reads at most; None where its config states none."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else None


def check_figures(totals: torch.Tensor) -> None:
    """totals: f(...) of every row of logits its logsumexp. Raises UserError where that is no number."""
    if not bool(totals.isfinite().all()):
        raise UserError(
            "the model's figures are not numbers: its weights or its adapter are damaged, or need another dtype than "
            "they have (bf16 or fp32 in place of fp16)"
        )


def load(
    name: str,
    *,
    adapter: Path | None = None,
    quantise: str = "none",
    dtype: str = "auto",
    training: bool = False,
) -> Loaded:
    """The model called `name`: a hub id, OWNER/NAME/FILE.gguf on the hub, a folder, or a path ending in .gguf.

    adapter: a folder made by sashimi.lyrics.train; dtype: of weights and computation (auto, bf16, fp16, fp32);
    quantise: none or nf4, weights in 4 bits with double quantisation; training: the adapter's weights can learn.
    Raises UserError for what is not there, damaged, not allowed, or does not belong together.
    """
    files = weights.find(name)
    card = None
    if adapter is not None:
        card = adapters.read(adapter)
        adapters.check_base(adapter, card, files.base)
    compute, device = compute_dtype(dtype), device_index()
    options: dict[str, Any] = {"dtype": compute, "trust_remote_code": False, "use_safetensors": True}
    if quantise == "nf4":
        _check_bitsandbytes()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
        )
    with weights.read_errors(files.base.name):
        tokenizer = _tokenizer(files, adapter)
        model = AutoModelForCausalLM.from_pretrained(files.folder, device_map={"": device}, **options)
    if len(tokenizer) > _rows(model):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if adapter is not None:
        model = adapters.attach(model, adapter, training)
    if not training:
        model.eval()
    return Loaded(model, tokenizer, files.base, adapter, card)


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _tokenizer(files: weights.Files, adapter: Path | None) -> Any:
    """The adapter's own, which may have tokens that it was taught, else the base's."""
    taught = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(adapter if taught else files.folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def compute_dtype(name: str) -> torch.dtype:
    """auto: bf16 where the hardware computes in it, fp16 on older GPUs, else fp32."""
    if name != "auto":
        return DTYPES[name]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_computes_bf16() else torch.float32


def _cpu_computes_bf16() -> bool:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def device_index() -> Any:
    """Where the whole model goes: this process's GPU where there is one."""
    if torch.cuda.is_available():
        return int(os.environ.get("LOCAL_RANK", 0))
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_bitsandbytes() -> None:
    try:
        import bitsandbytes  # noqa: F401 (only 4-bit weights need it)
    except ImportError as error:
        raise UserError(
            f"model.quantise=nf4 needs bitsandbytes ({error}); pip install bitsandbytes, or set model.quantise=none"
        ) from None
