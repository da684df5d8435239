"""Checkpoints of the published code: the numbers it gives, in every form that it saves."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, ROOT
from omegaconf import OmegaConf

from sashimi import checkpoint
from sashimi.checkpoint import CheckpointError, LoadedModel
from sashimi.config import SamplingConfig

# What is reached: 5e-6 for S4D, 4e-5 for S4, whose C is untied from its kernel length.
TOLERANCE = {"diag": 2e-5, "dplr": 1e-4}


def published(name: str) -> dict[str, torch.Tensor]:
    return torch.load(FIXTURES / name / "state_dict.pt", weights_only=True)


def expected(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, logits = (np.load(FIXTURES / name / f"{what}.npy") for what in ("tokens", "logits"))
    return torch.from_numpy(tokens), torch.from_numpy(logits)


def check(model: LoadedModel, name: str, tolerance: float) -> None:
    tokens, logits = expected(name)
    with torch.no_grad():
        assert (model(tokens) - logits).abs().max() < tolerance


@pytest.mark.parametrize("backend", ["two_level", "torch"])
@pytest.mark.parametrize("name", ["diag", "dplr"])
@torch.no_grad()
def test_equal_in_convolution_scan_and_step(name: str, backend: str) -> None:
    model = checkpoint.load(FIXTURES / name / "state_dict.pt", backend=backend)
    tokens, logits = expected(name)
    first, state = model.scan(tokens[:, :333], model.start(1))
    second, _ = model.scan(tokens[:, 333:], state)
    parts, systems = model.unpack(model.start(1)), model.systems()
    steps = [model.advance(t, parts, k % 16, systems) for k, t in enumerate(tokens.unbind(1))]
    for ours in (model(tokens), torch.cat([first, second], dim=1), torch.stack(steps, dim=1)):
        assert (ours - logits).abs().max() < TOLERANCE[name]


def test_what_is_read_off_the_tensors() -> None:
    for name, kind, discretization in (("diag", "s4d", "zoh"), ("dplr", "s4", "bilinear")):
        model = checkpoint.load(FIXTURES / name / "state_dict.pt")
        config = model.config
        assert (config.d_model, config.n_layers, config.d_state, config.pool) == (16, 2, 64, [4, 4])
        assert (config.expand, config.ff, config.glu, config.vocab, config.dropout) == (2, 2, True, 256, 0.0)
        assert (config.layer.kind, config.layer.discretization, config.layer.n_ssm) == (kind, discretization, 1)
        codec = model.metadata.codec
        assert (codec.normalize, codec.window, codec.law, codec.bits) == ("window", 131072, "mu-law", 8)


def test_which_step_sizes_is_an_option_and_else_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    path = FIXTURES / "diag" / "state_dict.pt"
    check(checkpoint.load(path, dt_transform="softplus"), "diag", TOLERANCE["diag"])
    assert not caplog.records
    checkpoint.load(path)
    assert "dt-transform exp" in caplog.text
    with pytest.raises(AssertionError):
        check(checkpoint.load(path, dt_transform="exp"), "diag", 1e-3)


def test_step_sizes_as_exponentials(tmp_path: Path) -> None:
    weights = published("diag")
    weights = {
        n: torch.nn.functional.softplus(t.double()).log().float() if n.endswith("inv_dt") else t
        for n, t in weights.items()
    }
    torch.save(weights, tmp_path / "exp.pt")
    check(checkpoint.load(tmp_path / "exp.pt", dt_transform="exp"), "diag", 1e-3)


def lightning(weights: dict[str, torch.Tensor], **settings: Any) -> dict[str, Any]:
    layer = {"mode": "nplr", "dt_transform": "softplus", "l_max": None, **settings}
    hyper_parameters = OmegaConf.create({"model": {"layer": layer}, "dataset": {"sample_len": 128000, "bits": 8}})
    return {"state_dict": weights, "hyper_parameters": hyper_parameters, "epoch": 3, "optimizer_states": []}


def test_lightning_checkpoint_with_its_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "epoch=1-step=3.ckpt"
    torch.save(lightning(published("dplr")), path)
    model = checkpoint.load(path)
    check(model, "dplr", TOLERANCE["dplr"])
    assert model.metadata.codec.window == 128000
    assert not caplog.records, "its own settings say how step sizes are stored"


def test_version_3_names_and_sign(tmp_path: Path) -> None:
    """Version 3: nested kernel, log_dt without its last axis, w_real and w_imag of the other sign, Conv1d shapes."""
    old: dict[str, torch.Tensor] = {}
    for name, t in published("dplr").items():
        name = name.replace("layer.layer.kernel.", "layer.kernel.kernel.").replace("layer.layer.D", "layer.D")
        if name.endswith("inv_dt"):
            name, t = name.replace("inv_dt", "log_dt"), torch.nn.functional.softplus(t.double()).log().float()[:, 0]
        elif name.endswith("A_real"):
            name = name.replace("A_real", "w_real")
        elif name.endswith("A_imag"):
            name, t = name.replace("A_imag", "w_imag"), -t
        elif name.endswith("l_kernel"):
            name = name.replace("l_kernel", "L")
        elif name.endswith((".weight_v", ".weight_g")) or (".ff." in name and name.endswith("weight")):
            t = t[..., None]
        old[name] = t
    torch.save(old, tmp_path / "v3.pt")
    model = checkpoint.load(tmp_path / "v3.pt")
    assert model.config.layer.dt_transform == "exp"
    assert "version 3" in model.metadata.provenance["format"]
    check(model, "dplr", 1e-3)


def test_plain_C_stays(tmp_path: Path) -> None:
    """A kernel length of 0 means that C was never tied."""
    weights = published("dplr")
    free = {n: torch.tensor(0) if n.endswith("l_kernel") else t for n, t in weights.items()}
    torch.save(free, tmp_path / "free.pt")
    model = checkpoint.load(tmp_path / "free.pt")
    assert torch.equal(model.tiers[2][0].layer.C, weights["model.c_layers.0.layer.layer.kernel.C"][0])


def test_conversion_is_a_command(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "checkpoints.convert", str(FIXTURES / "dplr" / "state_dict.pt"), str(out)]
    done = subprocess.run([*command, "--dt-transform", "softplus"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 blocks of S4" in done.stdout
    check(checkpoint.load(out), "dplr", TOLERANCE["dplr"])
    assert checkpoint.describe(out).sampling == SamplingConfig()
    for asked, found in (("temp=1.1", (1.1, 0)), ("entropy=2", (1.1, 2))):
        done = subprocess.run([*command[:3], str(out), str(out), "--sampling", asked], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        sampling = checkpoint.describe(out).sampling
        assert (sampling.temp, sampling.entropy) == found
    for asked, said in (("tmp=1", b"did you mean temp?"), ("temp", b"as in temp=1"), ("temp=x", b"must be a number")):
        wrong = subprocess.run([*command[:3], str(out), str(out), "--sampling", asked], cwd=ROOT, capture_output=True)
        assert wrong.returncode == 2
        assert said in wrong.stderr
    broken = tmp_path / "broken.pt"
    broken.write_bytes((FIXTURES / "dplr" / "state_dict.pt").read_bytes()[:5000])
    failed = subprocess.run([*command[:3], str(broken), str(out)], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "truncated" in failed.stderr
    assert "Traceback" not in failed.stderr


# --- files that are not one ---------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({**published("diag"), "evil": Evil(f"touch {tmp_path}/ran")}, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt", r"code or objects \(posix.system\)")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip", b"\x80\x02broken"])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", "x.pt is truncated or not a PyTorch file")


def test_other_models(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "not a published SaShiMi checkpoint")
    torch.save([1, 2], tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "holds a list")
    weights = published("dplr")
    del weights["model.norm.bias"]
    torch.save(weights, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "model.norm.bias")
    weights = {n: t.repeat(2, 1, 1, 1) if n.endswith(".P") else t for n, t in published("dplr").items()}
    torch.save(weights, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "rank 2")
    torch.save(lightning(published("dplr"), real_transform="relu"), tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "real_transform=relu")
