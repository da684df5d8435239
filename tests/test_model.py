"""SaShiMi: one wiring, three ways to run it, and the state between them."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_config, tiny_model

from sashimi.config import LayerConfig, ModelConfig
from sashimi.layers import FeedForward, ScalarNorm, WeightNormLinear
from sashimi.model import SaShiMi, State


def tokens_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def stepped(model: SaShiMi, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
    logits = []
    for t in tokens.unbind(1):
        y, state = model.step(t, state)
        logits.append(y)
    return torch.stack(logits, dim=1), state


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@torch.no_grad()
def test_forward_scan_and_step_agree_at_every_residue(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """Lengths and split points of every residue mod 16, outputs and final states."""
    model = tiny_model(kind).to(dtype)
    tokens = tokens_of(2, 53)
    whole = model(tokens)
    steps, last = stepped(model, tokens, model.start(2))
    assert relative(steps, whole) < tolerance
    for split in range(1, 37):
        first, state = model.scan(tokens[:, :split], model.start(2))
        assert relative(first, model(tokens[:, :split])) < tolerance
        second, state = model.scan(tokens[:, split:], state)
        assert relative(torch.cat([first, second], dim=1), whole) < tolerance
        assert relative(state.values, last.values) < 10 * tolerance
        assert state.position.tolist() == [53, 53]
        assert relative(stepped(model, tokens[:, split : split + 17], _at(model, tokens, split))[0],
                        whole[:, split : split + 17]) < tolerance  # fmt: skip


def _at(model: SaShiMi, tokens: torch.Tensor, split: int) -> State:
    return model.scan(tokens[:, :split], model.start(len(tokens)))[1]


@torch.no_grad()
def test_published_sizes_agree_over_thousands_of_steps(kind: str) -> None:
    """Width 64, state 64, single precision: convolution, scan in two parts and stepping to 1e-4."""
    torch.manual_seed(0)
    model = SaShiMi(ModelConfig(n_layers=1, layer=LayerConfig(kind=kind))).eval()
    tokens = tokens_of(1, 3000)
    whole = model(tokens)
    first, state = model.scan(tokens[:, :1777], model.start(1))
    second, _ = model.scan(tokens[:, 1777:], state)
    parts, systems = model.unpack(model.start(1)), model.systems()
    steps = [model.advance(t, parts, k % 16, systems) for k, t in enumerate(tokens.unbind(1))]
    assert relative(torch.cat([first, second], dim=1), whole) < 1e-4
    assert relative(torch.stack(steps, dim=1), whole) < 1e-4


@pytest.mark.parametrize("changes", [{"pool": []}, {"pool": [2, 3]}, {"ff": 0}, {"glu": False}, {"expand": 1}])
@torch.no_grad()
def test_other_wirings_agree(kind: str, changes: dict[str, object]) -> None:
    model = tiny_model(kind, **changes).double()
    tokens = tokens_of(1, 29)
    assert relative(stepped(model, tokens, model.start(1))[0], model(tokens)) < 1e-9


def test_causal_by_gradient(kind: str) -> None:
    """Logits at t depend on tokens up to t and on nothing later; far enough back they depend on all."""
    model = tiny_model(kind).double()
    embedded = model.embedding(tokens_of(1, 40)).detach().requires_grad_()
    model.embedding.forward = lambda tokens: embedded  # type: ignore[method-assign]
    for t in (0, 15, 16, 31, 39):
        (gradient,) = torch.autograd.grad(model(tokens_of(1, 40))[0, t].sum(), embedded)
        reach = gradient[0].abs().sum(-1)
        # The FFT leaves round-off of 1e-16 where the sum has nothing.
        assert (reach[t + 1 :] < 1e-13 * reach.max()).all()
        assert (reach[: t + 1] > 1e-9 * reach.max()).all()


def test_gradients_of_scan_are_those_of_forward(kind: str) -> None:
    model = tiny_model(kind).double()
    tokens, weights = tokens_of(2, 35), torch.randn(2, 35, 256, dtype=torch.float64)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad((model(tokens) * weights).sum(), parameters)
    first, state = model.scan(tokens[:, :13], model.start(2))
    second, _ = model.scan(tokens[:, 13:], state)
    given = torch.autograd.grad((torch.cat([first, second], dim=1) * weights).sum(), parameters)
    for ours, theirs in zip(given, wanted, strict=True):
        assert (ours - theirs).abs().max() <= 1e-8 * theirs.abs().max().clamp(min=1e-6)


@pytest.mark.parametrize(
    ("n_layers", "kind", "parameters"), [(8, "s4", 4751072), (2, "s4", 1460120), (8, "s4d", 4749536)]
)
def test_parameter_counts(n_layers: int, kind: str, parameters: int) -> None:
    """Those of the published modules: counted from its tensors' shapes at these sizes."""
    model = SaShiMi(ModelConfig(n_layers=n_layers, layer=LayerConfig(kind=kind)))
    assert sum(p.numel() for p in model.parameters()) == parameters


@torch.no_grad()
def test_batch_independence(kind: str) -> None:
    model = tiny_model(kind).double()
    tokens = tokens_of(4, 33)
    together = model(tokens)
    for i in range(4):
        assert torch.allclose(model(tokens[i : i + 1])[0], together[i], atol=1e-12)


def test_forward_writes_nothing(kind: str) -> None:
    model = tiny_model(kind)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = model.start(1)
    values = state.values.clone()
    model(tokens_of(1, 20))
    model.scan(tokens_of(1, 20), state)
    model.step(tokens_of(1, 1)[:, 0], state)
    assert torch.equal(state.values, values)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_dropout_is_for_training_only() -> None:
    model = tiny_model(dropout=0.5)
    tokens = tokens_of(1, 20)
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


# --- state --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_state_selects_joins_and_forks() -> None:
    model = tiny_model()
    tokens = tokens_of(3, 21)
    _, state = model.scan(tokens, model.start(3))
    fork = State.concat([state.select([2]), state.select([0, 0])])
    assert fork.position.tolist() == [21, 21, 21]
    more = tokens_of(3, 9, seed=1)
    expected, _ = model.scan(more, state.select([2, 0, 0]))
    assert torch.equal(model.scan(more, fork)[0], expected)


@torch.no_grad()
def test_state_survives_a_file(tmp_path: Path) -> None:
    model = tiny_model()
    _, state = model.scan(tokens_of(2, 7), model.start(2))
    for pending in (None, torch.tensor([3, 255])):
        State(state.values, state.position, pending).save(tmp_path / "state.safetensors")
        back = State.load(tmp_path / "state.safetensors")
        assert torch.equal(back.values, state.values)
        assert torch.equal(back.position, state.position)
        assert (back.pending is None) if pending is None else torch.equal(back.pending, pending)
    (tmp_path / "other").write_text("nothing of ours")
    with pytest.raises(ValueError, match="not a saved state"):
        State.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        State.load(tmp_path / "absent")


def test_start_is_position_0_with_silence_pending() -> None:
    state = tiny_model().start(3)
    assert state.position.tolist() == [0, 0, 0]
    assert state.pending is not None
    assert state.pending.tolist() == [128, 128, 128]
    assert not state.values.any()


def test_layout_covers_the_state() -> None:
    model = tiny_model()
    parts = model.unpack(model.start(2))
    assert list(parts) == list(model.layout())
    assert torch.equal(model.pack(parts, torch.zeros(2)).values, model.start(2).values)


def test_states_of_other_models_and_mixed_phases_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="does not fit this model"):
        model.scan(tokens_of(1, 4), tiny_model(n_layers=1).start(1))
    _, ahead = model.scan(tokens_of(1, 5), model.start(1))
    start = model.start(1)
    mixed = State.concat([ahead, State(start.values, start.position)])
    with pytest.raises(ValueError, match="one phase"):
        model.scan(tokens_of(2, 4), mixed)
    with pytest.raises(ValueError, match="pending"):
        State.concat([ahead, start])


# --- parts --------------------------------------------------------------------------------------------


def test_scalar_norm() -> None:
    norm = ScalarNorm().double()
    torch.nn.init.constant_(norm.m, 0.3)
    torch.nn.init.constant_(norm.s, 2.0)
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    expected = 2.0 / x.std(-1, unbiased=False, keepdim=True) * (x - x.mean(-1, keepdim=True) + 0.3)
    assert torch.allclose(norm(x), expected)


def test_weight_norm_keeps_rows_at_their_length() -> None:
    linear = WeightNormLinear(5, 3)
    torch.nn.init.constant_(linear.bias, 0.0)
    rows = linear(torch.eye(5)).T
    assert torch.allclose(rows.norm(dim=1, keepdim=True), linear.weight_g)
    assert torch.allclose(rows, linear.weight_v, atol=1e-6)


def test_feed_forward_is_position_wise() -> None:
    layer = FeedForward(4, 2)
    x = torch.randn(1, 6, 4)
    assert torch.allclose(layer(x)[:, 2], layer(x[:, 2]), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_state": 7}, "d_state=7"),
        ({"pool": [4, 1]}, "pool"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_models_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)  # type: ignore[arg-type]
