"""Reads SaShiMi checkpoints of the published code (state-spaces/s4): `.pt` state dicts, Lightning `.ckpt`.

Versions 4 and 3. Sizes are read off the tensors. Files are read with torch's restricted unpickler; the
only classes let through beyond its own are OmegaConf's containers, which Lightning saves settings in.
"""

import logging
import pickle
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf, base, nodes
from torch import Tensor

from sashimi.config import CodecConfig, LayerConfig, ModelConfig
from sashimi.errors import UserError
from sashimi.kernels.system import DenseMap
from sashimi.layers import S4
from sashimi.model import SaShiMi

if TYPE_CHECKING:
    from sashimi.checkpoint import Metadata

log = logging.getLogger(__name__)

WINDOW = 131072  # samples that the published runs normalise together, unless a checkpoint says otherwise
ALLOWED: list[Any] = [
    DictConfig, ListConfig, base.ContainerMetadata, base.Metadata, nodes.AnyNode, nodes.StringNode,
    nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode, defaultdict, dict, list, int, Any, PosixPath,
]  # fmt: skip


def read(path: Path, dt_transform: str | None = None) -> tuple[dict[str, Tensor], "Metadata"]:
    """Our weights and metadata of a published checkpoint.

    dt_transform: softplus or exp. Nothing in the tensors of version 4 says which; without it the
    checkpoint's own settings decide, else softplus, with a warning. Version 3 is always exp.
    Raises UserError for anything that is not such a checkpoint.
    """
    from sashimi.checkpoint import Metadata

    state_dict, settings = _unpickle(path)
    weights, version = _version_4_names(state_dict)
    if "encoder.0.weight" not in weights or not any(".kernel.C" in name for name in weights):
        raise UserError(f"{path} is not a published SaShiMi checkpoint: it has no embedding and S4 kernels")
    layer = _at(settings, "model", "layer")
    dataset = _at(settings, "dataset")
    if version == 3:
        dt_transform = "exp"
    elif dt_transform is None:
        dt_transform = layer.get("dt_transform")
        if dt_transform is None:
            dt_transform = "softplus"
            log.warning(
                "%s does not say how its step sizes are stored; taking softplus. "
                "If it sounds like noise, it is an older one: dt_transform=exp (--dt-transform exp).", path.name
            )  # fmt: skip
    for name, supported in (("real_transform", "exp"), ("imag_transform", "none")):
        if layer.get(name, supported) != supported:
            raise UserError(f"{path} was trained with {name}={layer[name]}; only {supported} is supported")
    try:
        config = _sizes(weights, dt_transform, layer.get("disc", "zoh"))
        model = SaShiMi(config)
        ours = _rename(weights, model)
    except (KeyError, IndexError, RuntimeError) as error:
        raise UserError(f"{path} is not a SaShiMi checkpoint of a supported form: {error}") from None
    codec = CodecConfig(
        bits=int(dataset.get("bits", 8)),
        law=str(dataset.get("quantization", "mu-law")),
        normalize="window",
        window=int(dataset.get("sample_len") or WINDOW),
    )
    source = {"imported_from": path.name, "format": f"state-spaces/s4 version {version}"}
    return ours, Metadata(config, codec, path.stem, source)


def _unpickle(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    with path.open("rb") as file, torch.serialization.safe_globals(ALLOWED):
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if blocked := re.search(r"GLOBAL (\S+)", str(error)):
                raise UserError(f"{path} holds code or objects ({blocked[1]}) that are not loaded from files") from None
            raise UserError(f"{path} is truncated or not a PyTorch file") from None
        except (RuntimeError, OSError, EOFError, LookupError, AttributeError, TypeError, ValueError):
            # Whatever a damaged file leads the reader into.
            raise UserError(f"{path} is truncated or not a PyTorch file") from None
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    settings = loaded.get("hyper_parameters", {})
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings, resolve=False)
    state_dict = loaded.get("state_dict", loaded)
    return {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}, settings


def _at(settings: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        settings = settings.get(key, {}) if isinstance(settings, Mapping) else {}
    return dict(settings) if isinstance(settings, Mapping) else {}


def _version_4_names(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Version 3 spells the kernel differently and has the imaginary part's other sign."""
    if not any("log_dt" in name for name in weights):
        return weights, 4
    renamed = {}
    for name, tensor in weights.items():
        name = re.sub(r"(?<!layer\.)layer\.kernel\.", "layer.layer.kernel.", name.replace("kernel.kernel.", "kernel."))
        name = re.sub(r"(?<!layer\.)layer\.D$", "layer.layer.D", name)
        name = re.sub(r"kernel\.L$", "kernel.l_kernel", name.replace("kernel.log_dt", "kernel.inv_dt"))
        name = re.sub(r"kernel\.(inv_|log_)?w_real$", "kernel.A_real", name)
        if name.endswith("kernel.w_imag"):
            name, tensor = name.replace("w_imag", "A_imag"), -tensor
        renamed[name] = tensor
    return renamed, 3


def _sizes(weights: dict[str, Tensor], dt_transform: str, diagonal_discretization: str) -> ModelConfig:
    vocab, d_model = weights["encoder.0.weight"].shape
    down = [weights[f"model.d_layers.{i}.linear.weight_v"].flatten(1) for i in range(_count(weights, "model.d_layers"))]
    width, pool, expand = d_model, [], 1
    for weight in down:
        pool.append(weight.shape[1] // width)
        expand = weight.shape[0] // width
        width = weight.shape[0]
    center = [f"model.c_layers.{i}.layer." for i in range(_count(weights, "model.c_layers"))]
    s4 = [name for name in center if name + "layer.D" in weights]
    has_ff = len(s4) < len(center)
    ff = weights[center[1] + "ff.0.0.weight"].shape[0] // width if has_ff else 0
    kernel = s4[0] + "layer.kernel."
    kind = "s4" if kernel + "P" in weights else "s4d"
    if kind == "s4" and weights[kernel + "P"].shape[0] != 1:
        raise KeyError(f"rank {weights[kernel + 'P'].shape[0]} of the low-rank part; only 1 is supported")
    if weights[kernel + "C"].shape[0] != 1:
        raise KeyError("more than one channel per S4 layer, or a bidirectional one")
    return ModelConfig(
        d_model=d_model, n_layers=len(s4), pool=pool, expand=expand, ff=ff,
        d_state=2 * weights[kernel + "C"].shape[-2], vocab=vocab,
        glu=weights[s4[0] + "output_linear.0.weight"].shape[0] == 2 * width,
        layer=LayerConfig(
            kind=kind, dt_transform=dt_transform, n_ssm=weights[kernel + "A_real"].shape[0],
            discretization="bilinear" if kind == "s4" else diagonal_discretization,
        ),
    )  # fmt: skip


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """How many children a module list has."""
    return len({name[len(prefix) + 1 :].split(".")[0] for name in weights if name.startswith(prefix + ".")})


def _rename(weights: dict[str, Tensor], model: SaShiMi) -> dict[str, Tensor]:
    """Published tensors under our names and shapes, with C untied from its kernel length."""
    ours = {
        "embedding.weight": weights["encoder.0.weight"],
        "norm.weight": weights["model.norm.weight"],
        "norm.bias": weights["model.norm.bias"],
        "head.weight": weights["decoder.0.output_transform.weight"],
        "head.bias": weights["decoder.0.output_transform.bias"],
    }
    depth = len(model.config.pool)
    for i in range(depth):
        for ours_pool, theirs in (
            (f"down_pools.{i}", f"d_layers.{i}"),
            (f"up_pools.{i}", f"u_layers.{depth - 1 - i}.0"),
        ):
            for name in ("weight_v", "weight_g", "bias"):
                ours[f"{ours_pool}.linear.{name}"] = weights[f"model.{theirs}.linear.{name}"]
    for i in range(depth + 1):
        theirs = "c_layers" if i == depth else f"u_layers.{depth - 1 - i}"
        for j, block in enumerate(model.tier(i)):
            source = f"model.{theirs}.{j if i == depth else j + 1}."
            target = f"tiers.{i}.{j}."
            for name in ("m", "s"):
                ours[f"{target}norm.{name}"] = weights[f"{source}norm.norm.{name}"]
            if isinstance(block.layer, S4):
                _s4(weights, source + "layer.", ours, target + "layer.", block.layer)
            else:
                for mine, its in (("expand_linear", "ff.0.0"), ("contract_linear", "ff.2")):
                    for name in ("weight", "bias"):
                        ours[f"{target}layer.{mine}.{name}"] = weights[f"{source}layer.{its}.{name}"]
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    return {name: t.reshape(shapes[name]).to(torch.float32) for name, t in ours.items()}


def _s4(weights: dict[str, Tensor], source: str, ours: dict[str, Tensor], target: str, layer: S4) -> None:
    kernel = source + "layer.kernel."
    mine = {
        "inv_dt": weights[kernel + "inv_dt"],
        "log_A_real": weights[kernel + "A_real"],
        "A_imag": -weights[kernel + "A_imag"],
        "B": weights[kernel + "B"],
        "C": weights[kernel + "C"],
        "D": weights[source + "layer.D"],
    }
    output = source + "output_linear." + ("0." if source + "output_linear.0.weight" in weights else "")
    mine["output_linear.weight"], mine["output_linear.bias"] = weights[output + "weight"], weights[output + "bias"]
    if layer.P is not None:
        mine["P"] = weights[kernel + "P"]
        shapes = {name: t.shape for name, t in layer.state_dict().items()}
        layer.load_state_dict({name: t.reshape(shapes[name]) for name, t in mine.items()})
        mine["C"] = untie_C(layer, int(weights[kernel + "l_kernel"]))
    ours.update({target + name: t for name, t in mine.items()})


def untie_C(layer: S4, L: int) -> Tensor:
    """Plain C of a layer whose C is tied to kernel length L: C~ = C (I - Abar^L), solved in float64.

    Returns f(H N/2 2). L = 0: C is plain already.
    """
    if L == 0:
        return layer.C.detach()
    system = layer.system()
    A = system.map()
    assert isinstance(A, DenseMap)
    I = torch.eye(layer.N, dtype=torch.float64)
    row = torch.linalg.solve((I - torch.linalg.matrix_power(A.A, L)).mT, system.c[..., None])[..., 0].detach()
    re, im = (row / 2).chunk(2, dim=-1)
    return torch.stack([re, -im], dim=-1)
