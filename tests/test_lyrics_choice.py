"""Every answer is scored, all in one pass: equal to a plain loop; and probabilities that mean what they say."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from lyrics_fixtures import make_llama

from sashimi.errors import UserError
from sashimi.lyrics import calibration, choice, prompts
from sashimi.lyrics.models import Loaded, load

OPTIONS = ["night", "night rain", "love", "river of love", "moon", "moonstone, night", "Ã"]
ASKED = ["love of night", "rain", "a much longer prompt about the river and the moon and a stone on the road"]


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> Loaded:
    return load(str(tiny_llama), dtype="fp32")


def loop(loaded: Loaded, prompt: str, option: str) -> float:
    """The oracle: one answer at a time, one pass each, as training tokenises them."""
    asked = prompts.ids(loaded.tokenizer, prompt)
    answer = prompts.ids(loaded.tokenizer, option)
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([asked + answer])).logits[0].double().log_softmax(-1)
    said = sum(float(logits[len(asked) - 1 + i, token]) for i, token in enumerate(answer))
    return said + float(logits[-1, prompts.end_ids(loaded.tokenizer)].logsumexp(-1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("chat", [True, False])
def test_all_answers_in_one_pass_are_a_plain_loop(tmp_path: Path, attention: str, chat: bool) -> None:
    loaded = load(str(make_llama(tmp_path / "m", chat=chat)), dtype="fp32")
    loaded.model.double()
    loaded.model.set_attn_implementation(attention)
    asked = [prompts.prompt(loaded.tokenizer, text) for text in ASKED]
    wanted = np.array([[loop(loaded, prompt, option) for option in OPTIONS] for prompt in asked])
    for batch in (1, 2, 8):
        np.testing.assert_allclose(choice.log_likelihoods(loaded, asked, OPTIONS, batch), wanted, atol=1e-9)


def test_in_single_precision_too(loaded: Loaded) -> None:
    asked = [prompts.prompt(loaded.tokenizer, text) for text in ASKED]
    wanted = [[loop(loaded, prompt, option) for option in OPTIONS] for prompt in asked]
    np.testing.assert_allclose(choice.log_likelihoods(loaded, asked, OPTIONS), wanted, atol=2e-4)


def test_probabilities_are_over_the_options_of_each_prompt(loaded: Loaded) -> None:
    asked = [prompts.prompt(loaded.tokenizer, text) for text in ASKED]
    lists = [OPTIONS[:3], OPTIONS[2:5], OPTIONS[:3]]
    found = choice.choose(loaded, asked, lists, batch=2)
    for prompt, options, p in zip(asked, lists, found, strict=True):
        scores = np.array([loop(loaded, prompt, option) for option in options])
        np.testing.assert_allclose(p, np.exp(scores) / np.exp(scores).sum(), rtol=1e-3)


def test_a_beginning_of_another_answer_does_not_always_win(loaded: Loaded) -> None:
    """A model that goes on after "night" means "night rain", though "night" alone is a part of it."""
    asked = prompts.prompt(loaded.tokenizer, "love")
    night, rain = (prompts.ids(loaded.tokenizer, option) for option in ("night", " rain"))
    weight = loaded.model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        ids = torch.tensor([prompts.ids(loaded.tokenizer, asked) + night])
        state = loaded.model.model(input_ids=ids).last_hidden_state[0, -1]
        weight[rain[0]] = 30 * state / state.square().sum()
    p = choice.choose(loaded, [asked], ["night", "night" + loaded.tokenizer.decode(rain)])[0]
    with torch.no_grad():
        weight.copy_(kept)
    assert p[1] > 0.9
    assert choice.choose(loaded, [asked], ["night", "night rain"])[0][0] > 0.9


def test_errors_name_what_is_wrong(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [prompts.prompt(loaded.tokenizer, "love")]
    for options, said in ((["night"], "two or more"), (["a", "a"], "all different"), (["a", ""], "empty")):
        with pytest.raises(UserError, match=said):
            choice.choose(loaded, asked, options)
    with pytest.raises(UserError, match="1024 at most"):
        choice.choose(loaded, [asked[0] * 200], OPTIONS)
    with monkeypatch.context() as changed:
        changed.setattr(loaded.model.config, "layer_types", ["full_attention", "linear_attention"], raising=False)
        with pytest.raises(UserError, match="running state .linear_attention"):
            choice.choose(loaded, asked, OPTIONS)
    with pytest.raises(UserError, match="lists of options"):
        choice.choose(loaded, asked, [OPTIONS, OPTIONS])


# --- calibration --------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.5 sure and half right; 0.9 sure and never right.
    p, right = [0.5, 0.5, 0.9, 0.9], [True, False, False, False]
    assert calibration.expected_error(p, right, bins=2) == pytest.approx((0 + 0.9) / 2)
    bins = calibration.reliability(p, right, bins=2)
    assert [(b.answers, b.confidence, b.accuracy) for b in bins] == [(2, 0.5, 0.5), (2, 0.9, 0.0)]
    assert bins[1].low == pytest.approx(0, abs=1e-9)
    assert bins[1].high == pytest.approx(0.6576, abs=1e-4)


def test_temperature_mends_overconfidence() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=3000)
    truth = [int(rng.choice(4, p=row)) for row in p]
    sharp = calibration.softened(p, 1 / 3)  # three times too sure
    found = calibration.fitted_temperature(sharp, truth)
    assert found == pytest.approx(3, rel=0.1)
    mended = calibration.softened(sharp, found)
    np.testing.assert_allclose(mended.sum(axis=1), 1)

    def error(q: np.ndarray) -> float:
        return calibration.expected_error(q.max(axis=1), q.argmax(axis=1) == truth)

    assert error(mended) < 0.05 < 0.15 < error(sharp)
    assert calibration.fitted_temperature(np.empty((0, 3)), []) == 1


def test_threshold_is_where_enough_answers_are_right() -> None:
    p = np.linspace(0.99, 0.01, 40)
    right = np.arange(40) < 20  # the surer half
    found = calibration.threshold(p, right, wanted=0.8)
    assert found == pytest.approx(p[24])  # 20 of 25
    assert calibration.threshold(p, ~right) is None
    assert calibration.threshold(p[:5], right[:5]) is None  # too few to say


def test_wilson() -> None:
    low, high = calibration.wilson(80, 100)
    assert (low, high) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    assert calibration.wilson(0, 0) == (0, 1)
