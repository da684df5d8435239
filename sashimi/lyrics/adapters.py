"""Adapters on disk: what training leaves, and what is done with it.

python -m sashimi.lyrics.adapters show ADAPTER
python -m sashimi.lyrics.adapters merge ADAPTER --out FOLDER
"""

import argparse
import io
import json
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sashimi.cli import reported_errors
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
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=training)
    except (ValueError, RuntimeError, KeyError, OSError, SafetensorError) as error:
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
    """The model card for people, with the front matter that the hub reads."""
    data, base, s = card["data"], card["base"], card["settings"]
    kept = min(card["losses"][1:], key=lambda e: e["val"], default=None)
    lines = ["---", "library_name: peft"]
    if "/" in base["name"] and not Path(base["name"]).exists():
        lines.append(f"base_model: {base['name']}")
    tags = ["lora", "lyrics", f"lyrics-{card['task']}"]
    lines += ["tags:", *(f"- {tag}" for tag in tags), "---", f"# {card['name']}", ""]
    what = "writes lyrics" if card["task"] == "writing" else "answers questions about lyrics"
    lines += [f"A LoRA adapter: with its base it {what}.", "", "| | |", "| --- | --- |"]
    counts = ", ".join(f"{count:,} {split}" for split, count in data["examples"].items())
    rows = {
        "base": f"{base['name']} (fingerprint {base['fingerprint']}, licence {base['licence'] or 'not stated'})",
        "data": f"{data['name']}: {counts} (content {data['content_hash'][:16]})",
        "licence of the data": data["licence"] or "not stated",
        "adapter": f"rank {s['lora']['r']}, alpha {s['lora']['alpha']}, on {', '.join(s['lora']['targets'])}",
        "training": f"{s['training']['epochs']} epochs, rate {s['training']['lr']:g}",
        "quantised": s["model"]["quantise"],
        "made with": ", ".join(f"{name} {number}" for name, number in card.get("versions", {}).items()),
    }
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "Loss, nats a token:", "", "| epoch | training | validation | |", "| --- | --- | --- | --- |"]
    for e in card["losses"]:
        note = "before training" if e["epoch"] == 0 else "kept" if e == kept else ""
        lines.append(f"| {e['epoch']} | {e['train']:.4f} | {e['val']:.4f} | {note} |")
    if card["metrics"]:
        lines += ["", "| measured | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in card["metrics"].items())]
    lines += ["", "What it writes may hold lines of the songs that it learnt from, and those are somebody's work.", ""]
    return "\n".join(lines)


def merge(adapter: Path, out: Path, base: str | None = None) -> None:
    """Base and adapter as one plain model in `out`, which anything that reads Hugging Face folders loads.

    The adapter is added to the unquantised weights, whatever it was trained over. base: where the base is now, if not
    where the card says. Raises UserError for a folder that is in use, and as `models.load`.
    """
    from sashimi.lyrics import models

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another --out")
    card = read(adapter)
    loaded = models.load(base or card["base"]["name"], adapter=adapter)
    with swapped(out) as partial, redirect_stderr(io.StringIO()):
        loaded.model.merge_and_unload().save_pretrained(partial)
        loaded.tokenizer.save_pretrained(partial)
        _write_card(partial, {**card, "merged": True})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sashimi.lyrics.adapters", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    for name, said in (("show", "what an adapter is"), ("merge", "base and adapter as one plain model")):
        command = commands.add_parser(name, help=said)
        command.add_argument("adapter", type=Path, metavar="ADAPTER", help="a run's folder adapter/")
        if name == "merge":
            command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the model goes")
            command.add_argument("--base", metavar="MODEL", help="where the base is now (default: as trained)")
    arguments = parser.parse_args()
    with reported_errors():
        card = read(arguments.adapter)
        if arguments.command == "show":
            print(readme(card).partition("---\n# ")[2])
            return
        merge(arguments.adapter, arguments.out, arguments.base)
        print(f"{arguments.out}: {card['base']['name']} with {arguments.adapter}")


if __name__ == "__main__":
    main()
