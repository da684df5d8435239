"""Models are found, told apart, and refused with a reason."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Page, Request, Server, serving

from sashimi.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from sashimi.lyrics import models, prompts, sizes, weights  # noqa: E402


@pytest.fixture
def copied(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_a_folder_loads(tiny_llama: Path, copied: Path) -> None:
    (copied / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    loaded = models.load(str(tiny_llama))
    assert next(loaded.model.parameters()).dtype == models.compute_dtype("auto")
    assert not loaded.model.training
    again = models.load(str(copied), dtype="bf16", training=True)
    assert next(again.model.parameters()).dtype == torch.bfloat16
    assert again.base.fingerprint == loaded.base.fingerprint
    assert (again.base.licence, loaded.base.licence) == ("mit", None)
    assert (loaded.adapter, loaded.card) == (None, None)


def test_other_weights_have_another_fingerprint(tiny_llama: Path, copied: Path) -> None:
    before = weights.find(str(tiny_llama)).base.fingerprint
    path = copied / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert weights.find(str(copied)).base.fingerprint != before
    shutil.copy(tiny_llama / "model.safetensors", path)
    assert weights.find(str(copied)).base.fingerprint == before
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert weights.find(str(copied)).base.fingerprint != before


def test_auto_is_what_the_hardware_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for known, wanted in (({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert models.compute_dtype("auto") == wanted
    assert models.compute_dtype("fp16") == torch.float16


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "config.json").unlink(), "is no model: it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is damaged"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read as a language model"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        (lambda f: _cut(f / "model.safetensors"), r"model\.safetensors is damaged: it has [\d,]+ bytes and should"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), r"model\.safetensors is damaged"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"has its weights as \.bin only"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}'
            ),
            "is incomplete: 1 of 2 files are missing, as model-00002-of-00002",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(copied: Path, damage: Any, said: str) -> None:
    damage(copied)
    with pytest.raises(UserError, match=said):
        models.load(str(copied))


def test_names_that_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "bad.gguf").write_text("no")
    for name, said in [
        (str(tmp_path / "absent"), "there is no .*absent"),
        (str(tmp_path / "file.txt"), r"is a file, but no \.gguf"),
        (str(tmp_path / "absent.gguf"), r"there is no .*absent\.gguf"),
        (str(tmp_path / "bad.gguf"), "does not begin with GGUF"),
        ("llama", "hub id as OWNER/NAME"),
        ("./a/b/c", "there is no"),
    ]:
        with pytest.raises(UserError, match=said):
            models.load(name)


def write_gguf(folder: Path, tiny: Path) -> Path:
    """The tiny Llama as a GGUF file."""
    gguf = pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    c = model.config
    path = folder / "tiny.gguf"
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_string("general.license", "apache-2.0")
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    w.add_vocab_size(c.vocab_size)
    state = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(vocabulary)
    w.add_token_types([3 if t.startswith("<|") else 1 for t in vocabulary])
    w.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in state["model"]["merges"]])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_chat_template(tokenizer.chat_template)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        parts = module.split(".", 3)
        to = whole.get(module) or f"blk.{parts[2]}.{names[parts[3]]}"
        x = tensor.float()
        if "attn_q" in to or "attn_k" in to:  # rotary halves lie interleaved in GGUF
            heads = c.num_attention_heads if "attn_q" in to else c.num_key_value_heads
            x = x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
        w.add_tensor(f"{to}.weight", x.contiguous().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def test_gguf_is_converted_once(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_gguf(tmp_path, tiny_llama)
    loaded, original = models.load(str(path), dtype="fp32"), models.load(str(tiny_llama), dtype="fp32")
    assert loaded.base.licence == "apache-2.0"
    tokens = torch.tensor([prompts.ids(original.tokenizer, "love and rain")])
    torch.testing.assert_close(loaded.model(tokens).logits, original.model(tokens).logits, atol=2e-3, rtol=0)
    assert prompts.end_ids(loaded.tokenizer)[0] == prompts.end_ids(original.tokenizer)[0]
    (folder,) = (tmp_path / "cache" / "sashimi-music" / "lyrics").iterdir()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    renamed = path.rename(tmp_path / "other.gguf")
    assert models.load(str(renamed)).base.fingerprint == loaded.base.fingerprint
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    renamed.write_bytes(renamed.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"other\.gguf cannot be read as a language model"):
        models.load(str(renamed))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_four_bits(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = models.load(str(tiny_llama), quantise="nf4", dtype="fp32")
    layer = loaded.model.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear4bit"
    assert (layer.weight.quant_type, layer.weight.quant_state.nested) == ("nf4", True)
    plain = models.load(str(tiny_llama), dtype="fp32")
    tokens = torch.tensor([[5, 6, 7]])
    difference = (loaded.model(tokens).logits - plain.model(tokens).logits).abs().mean()
    assert 0 < difference < 0.3 * plain.model(tokens).logits.abs().mean()
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"nf4 needs bitsandbytes .*pip install bitsandbytes"):
        models.load(str(tiny_llama), quantise="nf4")


# --- the hub


SHA = "0123456789" * 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path) -> Iterator[Server]:
    """A hub of our own with the tiny Llama as ann/llama."""
    import huggingface_hub.constants as constants

    with serving() as server:

        def publish(name: str, files: dict[str, bytes]) -> None:
            siblings = [{"rfilename": file} for file in files]
            info = {"id": name, "sha": SHA, "cardData": {"license": "mit"}, "siblings": siblings}
            tree = [{"type": "file", "path": f, "size": len(d), "oid": "1" * 40} for f, d in files.items()]
            for path in ("", "/revision/main", f"/revision/{SHA}"):
                server.pages[f"/api/models/{name}{path}"] = Page(json.dumps(info).encode(), "application/json")
            server.pages[f"/api/models/{name}/tree/{SHA}"] = Page(json.dumps(tree).encode(), "application/json")
            for file, data in files.items():
                page = Page(data, headers={"X-Repo-Commit": SHA})
                server.pages[f"/{name}/resolve/{SHA}/{file}"] = page
                server.pages[f"/{name}/resolve/main/{file}"] = page

        files = {p.name: p.read_bytes() for p in tiny_llama.iterdir()}
        publish("ann/llama", {**files, "pytorch_model.bin": b"pickle", "original/consolidated.pth": b"x"})
        publish("ann/pickled", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
        publish("ann/ggufs", {"tiny.gguf": b"GGUF"})
        refused = {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}
        server.pages["/api/models/ann/gated"] = Page(b"{}", "application/json", status=403, headers=refused)
        missing = {"X-Error-Code": "RepoNotFound"}
        server.pages["/api/models/ann/missing"] = Page(b"{}", "application/json", status=404, headers=missing)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_hub(hub: Server, tiny_llama: Path) -> None:
    loaded = models.load("ann/llama")
    assert loaded.base.name == "ann/llama"
    assert loaded.base.licence == "mit"
    assert loaded.base.fingerprint == weights.find(str(tiny_llama)).base.fingerprint
    assert not [path for path in hub.paths() if path.endswith((".bin", ".pth"))], "nothing that is not needed"
    hub.pages.clear()
    hub.pages["/api/models/ann/llama"] = Page(b"", status=503)
    assert models.load("ann/llama").base.fingerprint == loaded.base.fingerprint, "from the cache"


def test_the_config_alone_is_downloaded_to_plan(hub: Server) -> None:
    assert sizes.config_of("ann/llama").model_type == "llama"
    assert [path for path in hub.paths() if "resolve" in path][-1].endswith("/config.json")
    assert not [path for path in hub.paths() if path.endswith(".safetensors")]
    refused = {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}
    hub.pages["/ann/gated/resolve/main/config.json"] = Page(b"{}", "application/json", status=403, headers=refused)
    with pytest.raises(UserError, match=r"ann/gated\S* is gated: ask for access .*HF_TOKEN"):
        sizes.config_of("ann/gated")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ann/gated", r"ann/gated is gated: ask for access .*HF_TOKEN"),
        ("ann/missing", r"ann/missing is no folder here, and no model on the hub"),
        ("ann/pickled", r"has its weights as \.bin only"),
        ("ann/ggufs", r"has GGUF files: name one of them, as ann/ggufs/tiny\.gguf"),
        ("ann/ggufs/none.gguf", r"ann/ggufs has no file none\.gguf"),
        ("ann/llama: no", "there is no ann/llama: no"),
    ],
)
def test_what_the_hub_refuses(hub: Server, name: str, said: str) -> None:
    if "none.gguf" in name:
        gone = Page(b"", status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
        hub.pages["/ann/ggufs/resolve/main/none.gguf"] = gone
    with pytest.raises(UserError, match=said):
        models.load(name)


def test_an_interrupted_download_goes_on(hub: Server) -> None:
    page = hub.pages[f"/ann/llama/resolve/{SHA}/model.safetensors"]
    assert isinstance(page, Page)
    page.cut_always = 2000
    with pytest.raises(UserError, match="could not be downloaded .*the same command goes on where it stopped"):
        models.load("ann/llama")
    page.cut_always = None
    assert models.load("ann/llama").base.name == "ann/llama"


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    with serving() as server:
        url = server.url
    monkeypatch.setenv("HF_ENDPOINT", url)  # nobody listens there any more
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"ann/llama could not be downloaded .*Without a network give a folder"):
        models.load("ann/llama")


def test_a_gguf_of_the_hub(hub: Server, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "made"))
    data = write_gguf(tmp_path, tiny_llama).read_bytes()

    def answer(request: Request) -> Page:
        return Page(data, headers={"X-Repo-Commit": SHA})

    hub.pages["/ann/ggufs/resolve/main/tiny.gguf"] = answer
    assert models.load("ann/ggufs/tiny.gguf").base.licence == "apache-2.0"
