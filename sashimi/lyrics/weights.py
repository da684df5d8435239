"""Where a model's files are: a folder, a GGUF file, or the hub, from which they are downloaded once.

What may be wrong with them becomes an error that says what to do.
"""

import hashlib
import io
import json
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sashimi.errors import UserError
from sashimi.lyrics.dataset import swapped

log = logging.getLogger(__name__)

SAMPLES, SAMPLE_BYTES = 64, 4096
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Base:
    """A model as an adapter knows it.

    name         as it was given: hub id, folder or file
    fingerprint  of the contents: the same for a copy, another for other weights or another quantisation
    licence      what its files state
    """

    name: str
    fingerprint: str
    licence: str | None = None


@dataclass(frozen=True)
class Files:
    """folder: on this machine, with safetensors and a tokenizer."""

    folder: Path
    base: Base


def find(name: str) -> Files:
    """The files of a model, downloaded where they are not here yet. Raises UserError for what cannot be found."""
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file() and not path.is_absolute() and name.count("/") == 2 and not path.parent.exists():
            from sashimi.lyrics import hub

            path = hub.file(name)
        return _gguf(name, path)
    if path.is_dir():
        return _folder(name, path)
    if path.exists():
        raise UserError(f"{name} is a file, but no .gguf; give a folder, a .gguf file or a hub id")
    from sashimi.lyrics import hub

    return _folder(name, *hub.folder(hub_id(name)))


def hub_id(name: str) -> str:
    """The same, where it has the form of a hub id. Raises UserError: for it is nothing on this machine either."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise UserError(f"there is no {name}; give a folder, a .gguf file or a hub id as OWNER/NAME")
    return name


def _gguf(name: str, path: Path) -> Files:
    if not path.is_file():
        raise UserError(f"there is no {name}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{name} is damaged or no GGUF file (it does not begin with GGUF); get it again")
    total = hashlib.sha256(str(path.stat().st_size).encode())
    _sample(total, path)
    fingerprint = total.hexdigest()[:32]
    folder = converted(path, fingerprint)
    return Files(folder, Base(name, fingerprint, _card_licence(folder)))


def _folder(name: str, path: Path, licence: str | None = None) -> Files:
    config = path / "config.json"
    if not config.is_file():
        hint = "; an adapter is given as adapter=, beside its base" if (path / "adapter_config.json").is_file() else ""
        raise UserError(f"{name} is no model: it has no config.json{hint}")
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{config} is damaged ({error}); get it again") from None
    shards = safetensors(path)
    if not any((path / file).is_file() for file in TOKENIZER):
        raise UserError(f"{name} has no tokenizer: none of {', '.join(TOKENIZER)}; get the whole model")
    # What the saving program notes about itself is no part of the model.
    kept = {k: v for k, v in described.items() if k not in ("_name_or_path", "transformers_version", "torch_dtype")}
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for shard in shards:
        total.update(_header(shard))
        _sample(total, shard)
    return Files(path.absolute(), Base(name, total.hexdigest()[:32], licence or _card_licence(path)))


def safetensors(path: Path) -> list[Path]:
    """The weights of a folder. Raises UserError for none, and for a part that is missing."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is damaged ({error!r}); get it again") from None
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise UserError(f"{path} is incomplete: {len(missing)} of {len(names)} files are missing, as {missing[0]}")
        return [path / name for name in names]
    single = path / "model.safetensors"
    if single.is_file():
        return [single]
    if any(path.glob("*.bin")) or any(path.glob("*.pt*")):
        raise UserError(f"{path} has its weights as .bin only, which may run code when read; get them as safetensors")
    raise UserError(f"{path} has no weights: no model.safetensors")


def _header(path: Path) -> bytes:
    """Of a safetensors file: names, types and shapes. Raises UserError for damage, and for a file cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header = file.read(length) if 8 + length <= size else b""
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        end = 8 + length + max((value["data_offsets"][1] for value in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{path} is damaged: it is not a whole safetensors file; get it again") from None
    if end != size:
        raise UserError(f"{path} is damaged: it has {size:,} bytes and should have {end:,}; get it again")
    return json.dumps(tensors, sort_keys=True).encode()


def _sample(total: Any, path: Path) -> None:
    """Pieces of a file, evenly spread, into a hash: reading gigabytes at every start would be slow."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(size - SAMPLE_BYTES, 0) * i // (SAMPLES - 1))
            total.update(file.read(SAMPLE_BYTES))


def _card_licence(path: Path) -> str | None:
    """What the front matter of a model card states."""
    card = path / "README.md"
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n")
    try:
        found = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        return None
    licence = found.get("license") if isinstance(found, dict) else None
    return str(licence) if licence else None


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """What goes wrong while a model is read becomes an error that names it."""
    import torch
    from safetensors import SafetensorError

    try:
        with redirect_stderr(io.StringIO()):  # bars of the libraries, a line for every step where there is no terminal
            yield
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"the weights of {name} are damaged ({error}); get them again") from None
    except torch.OutOfMemoryError as error:
        raise UserError(f"{name} does not fit into the GPU's memory ({error}); set model.quantise=nf4") from None
    except (ValueError, KeyError, IndexError, struct.error, OSError, RuntimeError, ImportError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{name} cannot be read as a language model ({type(error).__name__}: {said})") from error


def cache() -> Path:
    """Where what is made from GGUF files is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sashimi-music" / "lyrics"


def converted(path: Path, fingerprint: str) -> Path:
    """A GGUF file as a folder of safetensors, made once: reading GGUF takes half a minute where this takes a second,
    and 4-bit weights are made from it.

    It lies in ~/.cache/sashimi-music/lyrics/FINGERPRINT with 2 bytes a weight, and can be deleted. Raises UserError
    for a damaged file.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = cache() / fingerprint
    if (folder / "README.md").is_file():
        return folder
    log.info("%s is converted once, into %s", path.name, folder)
    with swapped(folder) as partial, read_errors(str(path)):
        field = GGUFReader(path).get_field("general.license")
        # fp16 has three bits more than bf16 for what GGUF's scales, which are fp16, make.
        for dtype in (torch.float16, torch.bfloat16):
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
            )
            if all(bool(p.isfinite().all()) for p in model.parameters()):
                break
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(partial)
        licence = {} if field is None else {"license": str(field.contents())}
        card = f"---\n{yaml.safe_dump(licence)}---\nMade from {path.name}\n"
        (partial / "README.md").write_text(card, encoding="utf-8")
    return folder
