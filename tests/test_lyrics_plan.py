"""What training takes: counted exactly, and sums that add up."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sashimi import cli
from sashimi.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="the lyrics extra is not installed")
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from sashimi.lyrics import lora, plan, sizes  # noqa: E402
from sashimi.lyrics.config import CONFIGS, Data, Lora, Model  # noqa: E402
from sashimi.lyrics.plan import PlanSettings  # noqa: E402

GIB = 2**30


def llama(width: int, layers: int, inner: int, heads: int, kv: int, vocabulary: int, tied: bool) -> Any:
    return LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=kv, vocab_size=vocabulary, tie_word_embeddings=tied,
    )  # fmt: skip


LLAMA_8B = llama(4096, 32, 14336, 32, 8, 128256, False)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_8B, 8_030_261_248),
        (llama(3072, 28, 8192, 24, 8, 128256, True), 3_212_749_824),
        (llama(576, 30, 1536, 9, 3, 49152, True), 134_515_008),
    ],
)
def test_known_models_have_their_published_size(config: Any, parameters: int) -> None:
    assert sizes.size(config, "full", Lora()).total == parameters


@pytest.fixture(scope="module")
def small() -> Any:
    return llama(64, 3, 160, 4, 2, 500, False)


def test_parameters_are_those_of_the_model_that_is_trained(small: Any) -> None:
    size = sizes.size(small, "LoRA", Lora(r=4))
    model, _, _ = lora.adapted(LlamaForCausalLM(small), Lora(r=4), [])
    assert size.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert size.total == size.multiplied + 500 * 64
    assert size.trained == sum(4 * (a + b) * n for (a, b), n in size.matrices.items())
    assert size.quantised == sum(a * b * n for (a, b), n in size.matrices.items())
    assert size.layers == 3
    tied = sizes.size(llama(64, 3, 160, 4, 2, 500, True), "full", Lora())
    assert tied.multiplied == tied.total == size.total - 500 * 64


@pytest.mark.parametrize("method", ["LoRA", "full"])
def test_activations_are_what_a_real_pass_keeps(small: Any, method: str) -> None:
    model: Any = LlamaForCausalLM(small)
    if method == "LoRA":
        model, _, _ = lora.adapted(model, Lora(), [])
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    mask = torch.ones(2, sizes.PROBE, dtype=torch.long)
    mask[0, :3] = 0  # as in training, where songs are not equally long
    body = model.train().get_base_model().model if method == "LoRA" else model.train().model
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        body(input_ids=torch.zeros_like(mask), attention_mask=mask, use_cache=False)
    real = sum(x.untyped_storage().nbytes() for x in kept.values())
    size = sizes.size(small, method, Lora(), torch.float32)
    assert size.activations(2 * sizes.PROBE, False) == pytest.approx(real, rel=0.05)


def test_four_bits_are_a_quarter_and_some(small: Any) -> None:
    four, sixteen = (sizes.size(LLAMA_8B, method, Lora()) for method in ("QLoRA", "LoRA"))
    linear = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert four.quantised == linear
    assert four.weights() == pytest.approx(linear * 4.127 / 8 + (four.total - linear) * 2, rel=1e-4)
    assert sixteen.weights() == 2 * 8_030_261_248
    assert sixteen.learnt() == 16 * sixteen.trained
    assert sixteen.trained == 16 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert sizes.size(small, "full", Lora()).flops(True) == 8 * sizes.size(small, "full", Lora()).multiplied


def test_what_fits_fits(small: Any) -> None:
    found = [sizes.size(small, method, Lora()) for method in sizes.METHODS]
    settings = PlanSettings(gpu=1.1, data=Data(max_tokens=256))
    for way in plan.ways(found, settings, 100, 50):
        room = (settings.gpu - plan.RESERVE) * GIB
        assert way.size.memory(way.most, 256, way.checkpointing) <= room
        assert way.size.memory(way.most + 1, 256, way.checkpointing) > room
    with_, without = (found[1].memory(4, 256, again) for again in (True, False))
    assert with_ < without


def test_it_prints_a_plan(tiny_llama: Path, tiny_songs: Path) -> None:
    out = io.StringIO()
    settings = PlanSettings(model=Model(str(tiny_llama)), data=Data(tiny_songs, max_tokens=64), gpu=2)
    made = plan.plan(settings, console=Console(file=out, width=80))
    said = out.getvalue()
    assert max(map(len, said.split("In GiB")[0].splitlines()[1:])) <= 80
    assert f"{made[0].size.total:,} parameters" in said
    assert "12 songs" in said
    assert "an estimate" in said
    assert f"of {64} x {32}" in said


def test_every_key_is_explained_and_experiments_work(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PlanSettings] = []
    monkeypatch.setattr("sys.argv", ["plan", "experiment=vagalume-pt", "gpu=40", "device=a100"])
    cli.run(CONFIGS, "plan", lambda: (PlanSettings, lambda settings, experiment: seen.append(settings)))
    assert (seen[0].gpu, seen[0].device, seen[0].task) == (40, "a100", "writing")
    text = (CONFIGS / "plan.yaml").read_text(encoding="utf-8")
    assert all(f"\n{key}: " in text for key in ("gpu", "device", "efficiency", "songs", "tokens"))


@pytest.mark.parametrize(
    "values", [{"gpu": 0.0}, {"device": "abacus"}, {"efficiency": 1.5}, {"songs": 0}, {"tokens": 0}]
)
def test_settings_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        PlanSettings(**values)


def test_a_config_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        sizes.config_of(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="cannot be read"):
        sizes.config_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "abacus"}), encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        sizes.config_of(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(UserError, match=r"x\.gguf"):
        sizes.config_of(str(tmp_path / "x.gguf"))
