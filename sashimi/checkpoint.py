"""A checkpoint is one safetensors file that says what it is: weights, and everything to rebuild the model.

Loading unpickles nothing and needs no data set, no Hydra and no GPU. Published checkpoints (`.pt`, `.ckpt`)
are converted in memory.
"""

import json
import struct
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sashimi import __version__
from sashimi.config import CodecConfig, ModelConfig, SamplingConfig
from sashimi.errors import UserError
from sashimi.files import finished
from sashimi.model import SaShiMi
from sashimi.settings import build

FORMAT, FORMAT_VERSION = "sashimi-checkpoint", 1
BEST = "best.safetensors"  # what a run directory means as a checkpoint
PUBLISHED_SUFFIXES = (".pt", ".ckpt")
SHIPPED = Path(__file__).parents[1] / "checkpoints"  # in a clone
PASSING_RUNS = {"demo", "smoke", "test"}  # experiments whose runs nobody means by "my newest run"


class CheckpointError(UserError):
    """A file that is not a usable checkpoint; the message says which file, why, and what to do."""


@dataclass
class Metadata:
    """What a checkpoint says of itself.

    name        what it was trained as: the experiment, or the file an import came from
    provenance  data set name and hash, steps, code version, seed, ...
    metrics     for example heldout_bpb
    sampling    how it is best played, unless somebody says otherwise
    """

    model: ModelConfig
    codec: CodecConfig
    name: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


class LoadedModel(SaShiMi):
    """A SaShiMi in eval mode with the `metadata` of the checkpoint it came from."""

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(metadata.model)
        self.metadata = metadata


def save(path: Path, model: SaShiMi, metadata: Metadata) -> None:
    """Write a checkpoint, whole or not at all. `metadata.model` is taken from the model."""
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "model": json.dumps(asdict(replace(model.config, layer=replace(model.config.layer, backend="auto")))),
        "codec": json.dumps(asdict(metadata.codec)),
        "name": metadata.name,
        "provenance": json.dumps({"code_version": __version__, **metadata.provenance}),
        "metrics": json.dumps(metadata.metrics),
        "sampling": json.dumps(asdict(metadata.sampling)),
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with finished(Path(path)) as partial:
        save_file(tensors, partial, header)


def load(path: str | Path, *, backend: str = "auto", dt_transform: str | None = None) -> LoadedModel:
    """The model of a checkpoint, in eval mode: `model(tokens)` gives logits, `model.metadata` the rest.

    path: a checkpoint of ours, a run directory (its best checkpoint), or a published `.pt` or `.ckpt`.
    dt_transform: only for published checkpoints that do not say; see `sashimi.published`.
    Raises FileNotFoundError, and CheckpointError for truncated, foreign, newer or damaged files.
    """
    path = resolve(path)
    if path.suffix in PUBLISHED_SUFFIXES:
        from sashimi import published

        try:
            weights, metadata = published.read(path, dt_transform)
        except UserError as error:
            raise CheckpointError(str(error)) from None
    else:
        metadata = describe(path)
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata.model.layer.backend = backend
    if metadata.model.vocab != 1 << metadata.codec.bits:
        raise CheckpointError(
            f"{path}: a model of {metadata.model.vocab} tokens with a {metadata.codec.bits}-bit codec"
        )
    model = LoadedModel(metadata)
    _check_weights(path, model, weights)
    model.load_state_dict(weights)
    return model.eval()


def describe(path: str | Path) -> Metadata:
    """What a checkpoint of ours says of itself, without its weights. Raises as `load`."""
    path = resolve(path)
    header = _header(path)
    return Metadata(
        model=_build(ModelConfig, header, "model", path),
        codec=_build(CodecConfig, header, "codec", path),
        name=header.get("name", ""),
        provenance=json.loads(header.get("provenance", "{}")),
        metrics=json.loads(header.get("metrics", "{}")),
        sampling=_build(SamplingConfig, {"sampling": "{}", **header}, "sampling", path),
    )


def resolve(path: str | Path) -> Path:
    """The checkpoint file that a path means. Raises FileNotFoundError with what was looked for."""
    path = Path(path)
    if path.is_dir():
        if not (path / BEST).is_file():
            raise FileNotFoundError(f"{path} is a folder without {BEST}: no finished training run is there")
        return path / BEST
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    return path


def choose(checkpoint: Path | None, runs: Path, experiment: str | None) -> tuple[Path, str]:
    """The checkpoint to use and why: the one given, else the newest local run, else a shipped one.

    Runs lie in runs/EXPERIMENT/TIME. With `experiment`, only its runs count; else all but those of demos
    and tests. Raises UserError when there is none.
    """
    if checkpoint is not None:
        return checkpoint, "as asked"
    found = [
        path.parent
        for path in runs.glob(f"*/*/{BEST}")
        if (path.parts[-3] == experiment if experiment else path.parts[-3] not in PASSING_RUNS)
    ]
    if found:
        return max(found, key=lambda run: (run / BEST).stat().st_mtime), "the newest local training run"
    shipped = sorted(SHIPPED.glob("*.safetensors"))  # of which piano-2block is the first
    if shipped:
        return shipped[0], "shipped with the program; no local training run" + (
            f" of {experiment}" if experiment else ""
        )
    raise UserError(
        f"no checkpoint: {runs}/ holds no training run{f' of {experiment}' if experiment else ''} and none is "
        "shipped; set checkpoint_path=FILE"
    )


def _header(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint of ours, after checking that the file is one and is whole."""
    foreign = f"{path} is not a checkpoint of this program"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > 100_000_000:
            raise CheckpointError(f"{foreign}: not a safetensors file")
        text = file.read(length)
    truncated = f"{path} is truncated ({size} bytes are there); copy or download it again"
    if len(text) < length:
        raise CheckpointError(truncated if text[:1] == b"{" else f"{foreign}: not a safetensors file")
    try:
        header = json.loads(text)
        metadata = header.get("__metadata__", {})
        end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CheckpointError(f"{foreign}: not a safetensors file") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{foreign}: a safetensors file of something else")
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version or '?'}; this program ({__version__}) reads up to "
            f"{FORMAT_VERSION}: update it"
        )
    if size < 8 + length + end:
        raise CheckpointError(truncated)
    return metadata


def _build(cls: type, header: dict[str, str], key: str, path: Path) -> Any:
    try:
        return build(cls, json.loads(header[key]), f"{key}.")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe its {key}: {error}") from None


def _check_weights(path: Path, model: SaShiMi, weights: dict[str, Tensor]) -> None:
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in weights.items()}
    if expected != found:
        differing = sorted(set(expected.items()) ^ set(found.items()))
        raise CheckpointError(f"{path} is damaged: its weights do not fit its own description, e.g. {differing[0]}")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} holds NaN or infinite weights, e.g. in {name}: that training run failed")
