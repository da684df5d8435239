"""A model with an adapter to be learnt: which layers, and which new tokens."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from sashimi.errors import UserError
from sashimi.lyrics.config import Lora
from sashimi.lyrics.tokens import CONTROL_TOKENS


def tied(model: Any) -> bool:
    """Whether the output layer is the embedding itself."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def teach_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Puts the control tokens into tokenizer and model. Returns their ids, to be learnt."""
    tokenizer.add_tokens(list(CONTROL_TOKENS))
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = [int(i) for i in tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))]
    # A row that nothing has trained begins as an average token: near the others, and the same in every run.
    with torch.no_grad():
        for layer in {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings())}.values():
            known = [i for i in range(len(tokenizer)) if i not in set(new)]
            layer.weight[new] = layer.weight[known].float().mean(0).to(layer.weight.dtype)
    return new


def targets(model: Any, settings: Lora) -> tuple[str | list[str], list[str]]:
    """What peft adapts, and what is to be said about it. Raises UserError for names that the model has not."""
    if settings.targets == ["all"]:
        return "all-linear", []
    output = model.get_output_embeddings()
    head = next((name.rpartition(".")[2] for name, m in model.named_modules() if m is output), "lm_head")
    names = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for name in settings.targets:
        if name not in names | {head}:
            raise UserError(f"lora.targets: the model has no layer {name}; it has {', '.join(sorted(names))}, or [all]")
    if head in settings.targets and tied(model):
        kept = [name for name in settings.targets if name != head]
        if not kept:
            raise UserError(f"lora.targets: {head} is the embedding itself in this model; give other layers, or [all]")
        return kept, [f"{head} is left out: in this model it is the embedding itself, and one cannot change alone"]
    return list(settings.targets), []


def adapted(model: Any, settings: Lora, new_tokens: list[int]) -> tuple[Any, bool, list[str]]:
    """The model with a fresh adapter; whether the output layer is as it was; what is to be said about it.

    new_tokens: whose embeddings are learnt, and no others (peft's trainable_token_indices).
    """
    layers, notes = targets(model, settings)
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    name = next(n.rpartition(".")[2] for n, m in model.named_modules() if m is embedding)
    tokens = {name: new_tokens} if new_tokens else None
    if new_tokens:
        notes.append(f"of the embeddings only those of the {len(new_tokens)} new tokens are learnt")
    wrapped = get_peft_model(
        model,
        LoraConfig(
            r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=layers,
            bias="none", task_type="CAUSAL_LM", trainable_token_indices=tokens,
        ),
    )  # fmt: skip
    return wrapped, wrapped.get_output_embeddings() is head, notes
