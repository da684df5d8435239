"""Prompts and clips."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model

from sashimi import audio
from sashimi.codec import Codec
from sashimi.config import CodecConfig, DataConfig, GenerateConfig, SamplingConfig
from sashimi.engines.eager import EagerEngine
from sashimi.generation import bits_per_byte, clip_length, generate, prompts

NOTHING = np.zeros(0, np.uint8)
Recording = Callable[..., Path]


@dataclass
class Clip:
    tokens: np.ndarray
    played: int
    log_likelihood: float


def made(beginnings: list[np.ndarray], l_sample: int = 40, **options: object) -> dict[int, Clip]:
    clips: dict[int, Clip] = {}
    for block in generate(EagerEngine(tiny_model()), beginnings, l_sample, SamplingConfig(), 5, **options):  # type: ignore[arg-type]
        for row, number in enumerate(block.numbers):
            clip = clips.setdefault(number, Clip(block.prompts[row], 0, 0.0))
            clip.tokens = np.concatenate([clip.tokens, block.tokens[row]])
            clip.played, clip.log_likelihood = block.played, block.log_likelihoods[row]
    return clips


def test_likelihoods_are_exact() -> None:
    """Scored by the convolution, in the clip's own token order, prompt left out."""
    model = tiny_model()
    beginning = np.arange(32, dtype=np.uint8)
    (clip,) = made([beginning], 80).values()
    tokens = torch.from_numpy(clip.tokens.astype(np.int64))[None]
    inputs = torch.cat([torch.tensor([[128]]), tokens[:, :-1]], dim=1)
    with torch.no_grad():
        logp = model(inputs).double().log_softmax(-1).gather(-1, tokens[..., None])[0, 32:, 0]
    assert abs(clip.log_likelihood - logp.sum().item()) < 1e-3
    assert clip.played == 48
    assert np.array_equal(clip.tokens[:32], beginning)
    assert abs(bits_per_byte(clip.log_likelihood, clip.played) + logp.mean().item() / np.log(2)) < 1e-4


def test_clips_do_not_depend_on_batches_or_companions() -> None:
    beginnings = [np.full(16, 10 * i, np.uint8) for i in range(3)]
    together = made(beginnings, n_reps=3)
    assert sorted(together) == list(range(9))
    for options in ({"n_batch": 2}, {"n_batch": 1}, {"numbers": [7, 2]}):
        for number, clip in made(beginnings, n_reps=3, **options).items():
            assert np.array_equal(clip.tokens, together[number].tokens)
            assert clip.log_likelihood == together[number].log_likelihood
    assert len({clip.tokens.tobytes() for clip in together.values()}) == 9
    assert all(np.array_equal(together[c].tokens[:16], beginnings[c % 3]) for c in together)


def test_some_begin_from_nothing_beside_others_that_continue() -> None:
    beginning = np.arange(32, dtype=np.uint8)
    together = made([beginning, NOTHING], 80)
    assert [(len(clip.tokens), clip.played) for _, clip in sorted(together.items())] == [(80, 48), (48, 48)]
    alone = made([NOTHING, NOTHING], 48)
    assert np.array_equal(together[1].tokens, alone[1].tokens)
    assert together[1].log_likelihood == alone[1].log_likelihood


def test_one_prompt_is_heard_once() -> None:
    engine, calls = EagerEngine(tiny_model()), []
    prefill = engine.prefill
    engine.prefill = lambda tokens, state: (calls.append(tokens.shape), prefill(tokens, state))[1]  # type: ignore[method-assign, func-returns-value]
    list(generate(engine, [np.full(16, 3, np.uint8)] * 4, 20, SamplingConfig(), 0, n_batch=2))
    assert calls == [(1, 16)]


def test_blocks_say_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sashimi.generation.BLOCK_MAX", 16)
    blocks = list(generate(EagerEngine(tiny_model()), [NOTHING] * 3, 40, SamplingConfig(), 5, n_batch=2))
    assert [list(block.numbers) for block in blocks] == [[0, 1]] * 3 + [[2]] * 3
    assert [block.tokens.shape for block in blocks] == [(2, 16), (2, 16), (2, 8), (1, 16), (1, 16), (1, 8)]
    assert [(block.first, block.last, block.played, block.steps) for block in blocks] == [
        (True, False, 16, 40), (False, False, 32, 40), (False, True, 40, 40),
    ] * 2  # fmt: skip
    assert all(block.rate > 0 for block in blocks)


# --- prompts ------------------------------------------------------------------------------------------


def config(**settings: object) -> GenerateConfig:
    return GenerateConfig(**settings)  # type: ignore[arg-type]


def test_prompt_is_the_section_as_the_model_hears_it(recording: Recording) -> None:
    path = recording("song.mp3", seconds=3.0)
    model = tiny_model()
    found = prompts(config(prompt=path, prompt_start=1.0, prompt_end=1.5, n_samples=2), model.metadata, 16)
    heard = Codec(CodecConfig()).encode(audio.read(path, 16000, 1.0, 1.5))
    assert np.array_equal(found[0], heard[len(heard) % 16 :])
    assert np.array_equal(found[0], found[1])
    assert len(found[0]) == 8000


def test_prompts_are_cropped_at_the_front(recording: Recording) -> None:
    path = recording(seconds=1.0, rate=16000)
    (found,) = prompts(config(prompt=path, prompt_end=37 / 16000, n_samples=1), tiny_model().metadata, 16)
    assert np.array_equal(found, Codec(CodecConfig()).encode(audio.read(path, 16000))[5:37])


def test_prompts_shorter_than_a_period_are_refused(recording: Recording) -> None:
    with pytest.raises(ValueError, match="15 samples is too short"):
        prompts(config(prompt=recording(rate=16000), prompt_end=15 / 16000), tiny_model().metadata, 16)


def test_prefixes_from_a_data_set(recording: Recording, tmp_path: Path) -> None:
    for i in range(20):
        recording(f"data/{i:02}.wav", seconds=0.2, rate=16000, level=0.1 + 0.02 * i)
    asked = config(l_prefix=64, split="test", n_samples=2, data=DataConfig(tmp_path / "data"))
    found = prompts(asked, tiny_model().metadata, 16)
    for tokens, name in zip(found, ("18", "19"), strict=True):
        assert np.array_equal(
            tokens, Codec(CodecConfig()).encode(audio.read(tmp_path / f"data/{name}.wav", 16000))[:64]
        )
    with pytest.raises(ValueError, match="set data.dir"):
        prompts(config(l_prefix=64), tiny_model().metadata, 16)


def test_unconditional_prompts_are_empty(recording: Recording) -> None:
    assert [len(p) for p in prompts(config(n_samples=3), tiny_model().metadata, 16)] == [0, 0, 0]
    beside = prompts(config(n_samples=1, n_free=2, prompt=recording(seconds=1.0)), tiny_model().metadata, 16)
    assert [len(p) for p in beside] == [16000, 0, 0]


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silent_prompts_are_refused(recording: Recording, level: float) -> None:
    path = recording("quiet.wav", level=level)
    with pytest.raises(ValueError, match=r"quiet.wav from 0 s is silent"):
        prompts(config(prompt=path), tiny_model().metadata, 16)


def test_prompts_past_the_end_are_refused(recording: Recording) -> None:
    with pytest.raises(ValueError, match="ends before that"):
        prompts(config(prompt=recording(seconds=1.0), prompt_start=3.0), tiny_model().metadata, 16)


def test_length_counts_the_prompt() -> None:
    assert clip_length(config(l_sample=160), 100, 16000) == 160
    assert clip_length(config(), 100, 16000) == 160100
    for prompt in (160, 161):
        with pytest.raises(ValueError, match=f"above {prompt}"):
            clip_length(config(l_sample=160), prompt, 16000)
