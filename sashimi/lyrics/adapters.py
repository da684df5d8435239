"""Adapters on disk: what training leaves, and what is done with it.

python -m sashimi.lyrics.adapters show ADAPTER
python -m sashimi.lyrics.adapters merge ADAPTER --out FOLDER
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.lyrics.dataset import swapped
from sashimi.lyrics.weights import Base

CARD = "card.json"
PACKAGES = ("torch", "transformers", "peft", "trl")


def read(adapter: Path) -> dict[str, Any]:
    """The card of an adapter. Raises UserError for a folder that is none, or not whole."""
    if not adapter.is_dir():
        raise UserError(f"there is no adapter {adapter}")
    for name in ("adapter_config.json", "adapter_model.safetensors", CARD):
        if not (adapter / name).is_file():
            inside = adapter / "adapter"
            hint = f"; did you mean {inside}?" if (inside / name).is_file() else ""
            raise UserError(f"{adapter} is no adapter of this program: it has no {name}{hint}")
    try:
        card = json.loads((adapter / CARD).read_text(encoding="utf-8"))
        return {**card, "base": dict(card["base"]), "task": str(card["task"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{adapter / CARD} is damaged ({error!r}); train again, or get it again") from None


def check_base(adapter: Path, card: dict[str, Any], base: Base) -> None:
    """Raises UserError for an adapter that was trained on another base."""
    of = card["base"]
    if of["fingerprint"] != base.fingerprint:
        raise UserError(
            f"{adapter} was trained on {of['name']} ({of['fingerprint'][:8]}), and {base.name} has other contents "
            f"({base.fingerprint[:8]}); give the base that it was trained on"
        )


def attach(model: Any, adapter: Path, training: bool = False) -> Any:
    """A model with the adapter on it. Raises UserError for one that does not fit."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=training)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{adapter} cannot be put on its base: {said}") from None


def save(folder: Path, model: Any, tokenizer: Any, card: dict[str, Any]) -> None:
    """The adapter on a model, with its card, in place of what `folder` held: whole or not at all."""
    with swapped(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _write_card(partial, {**card, "versions": {name: version(name) for name in PACKAGES}})


def note_losses(folder: Path, epochs: list[dict[str, Any]]) -> None:
    """Puts the losses of all epochs into the card of a finished run's adapter."""
    _write_card(folder, {**read(folder), "losses": epochs})


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    with finished(folder / CARD) as partial:
        partial.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with finished(folder / "README.md") as partial:
        partial.write_text(readme(card), encoding="utf-8")


def readme(card: dict[str, Any]) -> str:
    """The model card for people."""
    return f"# {card['name']}\n"
