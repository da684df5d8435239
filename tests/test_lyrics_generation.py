"""Text from a language model: whole characters, its own randomness, an end, and errors that arrive."""

import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sashimi.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="the lyrics extra is not installed")
from sashimi.lyrics import models  # noqa: E402
from sashimi.lyrics.generation import Sampling, Written, stream, write_many  # noqa: E402
from sashimi.lyrics.models import Loaded  # noqa: E402
from sashimi.lyrics.prompts import end_ids  # noqa: E402

TEXT = "não é só manhã, 日本語 ♫ 👩‍🎤\n\nfim"


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> Loaded:
    return models.load(str(tiny_llama))


class Scripted:
    """A model that says the given tokens, a row of them for every prompt, and counts its steps."""

    device = torch.device("cpu")

    def __init__(self, rows: list[list[int]], size: int) -> None:
        self.rows, self.size, self.steps = rows, size, 0
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=1024))

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        logits = torch.full((len(input_ids), 1, self.size), -50.0)
        for i, row in enumerate(self.rows):
            logits[i, 0, row[min(self.steps, len(row) - 1)]] = 50.0
        self.steps += 1
        return SimpleNamespace(logits=logits, past_key_values=None)


def scripted(loaded: Loaded, *texts: str, extra: int = 0) -> Loaded:
    end = end_ids(loaded.tokenizer)[0]
    rows = [[*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
    return Loaded(Scripted(rows, len(loaded.tokenizer) + extra), loaded.tokenizer, loaded.base)


def read(pieces: Any) -> tuple[list[str], Written]:
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as over:
            return found, over.value


def test_pieces_are_whole_characters_and_add_up(loaded: Loaded) -> None:
    pieces, written = read(stream(scripted(loaded, f" \n{TEXT} \n"), "x", Sampling()))
    assert "".join(pieces) == written.text == TEXT
    assert len(pieces) > 10
    assert written.ended
    assert not [piece for piece in pieces if "\ufffd" in piece]


def test_cut_by_the_limit_no_half_character_stays(loaded: Loaded) -> None:
    tokens = len(loaded.tokenizer("o 👩", add_special_tokens=False)["input_ids"])
    for length in range(1, tokens + 1):
        pieces, written = read(stream(scripted(loaded, "o 👩"), "x", Sampling(max_tokens=length)))
        assert "".join(pieces) == written.text
        assert written == Written("o 👩" if length == tokens else "o", False, length)


def test_nothing_is_written_that_a_terminal_obeys(loaded: Loaded) -> None:
    pieces, written = read(stream(scripted(loaded, "a\x1b[2Jb\r\nc\td\x9b"), "x", Sampling()))
    assert "".join(pieces) == written.text == "a[2Jb\nc\td"


def test_special_tokens_are_never_written(loaded: Loaded) -> None:
    special = loaded.tokenizer.all_special_ids
    others = [i for i in special if i not in end_ids(loaded.tokenizer)]
    model = scripted(loaded, "la", extra=8)
    wanted = model.model.rows[0]
    model.model.rows[0] = [wanted[0], *others, len(loaded.tokenizer) + 3, *wanted[1:]]  # the last has no token at all
    _, written = read(stream(model, "x", Sampling(temperature=0)))
    assert written.text.startswith("l")
    assert not [t for t in loaded.tokenizer.all_special_tokens if t in written.text]
    assert written.ended


def test_many_at_once_are_what_one_at_a_time_is(loaded: Loaded) -> None:
    prompts = ["The river", "O rio leva o meu coração, saudade", "x"]
    sampling = Sampling(temperature=0, max_tokens=12)
    together = write_many(loaded, prompts, sampling, batch=3)
    assert [read(stream(loaded, prompt, sampling))[1] for prompt in prompts] == together


def test_rows_end_by_themselves(loaded: Loaded) -> None:
    model = scripted(loaded, "la", "la la la la\nla")
    assert [w.text for w in write_many(model, ["a", "b"], Sampling())] == ["la", "la la la la\nla"]
    assert model.model.steps == len(model.model.rows[1])


def test_a_seed_says_it_all_and_disturbs_nobody(loaded: Loaded) -> None:
    sampling = Sampling(temperature=1.2, top_p=1.0, max_tokens=20, seed=4)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = write_many(loaded, ["a", "a", "b"], sampling, batch=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert write_many(loaded, ["a", "a", "b"], sampling, batch=2) == first
    assert first[0].text != first[1].text
    assert write_many(loaded, ["a"], Sampling(1.2, 1.0, 20, 5))[0] != first[0]


class Fixed(SimpleNamespace):
    """A model that expects the same whatever came before. logits: f(V)."""

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(len(input_ids), 1, -1).clone(), past_key_values=None)


def fixed(loaded: Loaded, **odds: float) -> Loaded:
    """odds: logits of letters."""
    logits = torch.full((len(loaded.tokenizer),), -torch.inf)
    for letter, odd in odds.items():
        logits[loaded.tokenizer(letter, add_special_tokens=False)["input_ids"][0]] = odd
    config = Scripted([], 0).config
    return Loaded(Fixed(device=torch.device("cpu"), config=config, logits=logits), loaded.tokenizer, loaded.base)


def test_draws_follow_the_distribution(loaded: Loaded) -> None:
    model = fixed(loaded, x=math.log(0.75), y=math.log(0.25))
    text = write_many(model, ["x"], Sampling(1.0, 1.0, 400))[0].text
    assert len(text) == 400
    assert text.count("x") == pytest.approx(300, abs=35)
    assert set(write_many(model, ["x"], Sampling(1.0, 0.7, 50))[0].text) == {"x"}  # top-p leaves one
    assert set(write_many(model, ["x"], Sampling(1e-30, 1.0, 50))[0].text) == {"x"}


def test_the_penalty_is_on_what_was_written_and_not_on_the_prompt(loaded: Loaded) -> None:
    model = fixed(loaded, x=2.0, y=1.5)
    assert write_many(model, ["x"], Sampling(0.0, 1.0, 5, repetition_penalty=2.0))[0].text == "xyxxx"
    assert write_many(model, ["x"], Sampling(0.0, 1.0, 5))[0].text == "xxxxx"


def test_closed_it_stops_and_grad_is_as_it_was(loaded: Loaded) -> None:
    model = scripted(loaded, "la la la la la la la la")
    pieces = stream(model, "x", Sampling())
    next(pieces)
    assert not torch.is_inference_mode_enabled()
    steps = model.model.steps
    pieces.close()
    assert list(pieces) == []
    assert model.model.steps == steps


def test_errors_reach_whoever_asked(loaded: Loaded) -> None:
    class Broken(Scripted):
        def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            out = super().__call__(input_ids)
            if self.steps == 3:
                raise RuntimeError("the third step")
            out.logits *= torch.nan if self.size == 7 else 1
            return out

    broken = Loaded(Broken([[5, 6, 7, 8]], len(loaded.tokenizer)), loaded.tokenizer, loaded.base)
    pieces = stream(broken, "x", Sampling())
    with pytest.raises(RuntimeError, match="third step"):
        list(pieces)
    nan = Loaded(Broken([[5, 6]], 7), loaded.tokenizer, loaded.base)
    with pytest.raises(UserError, match="damaged"):
        list(stream(nan, "x", Sampling()))
    with pytest.raises(UserError, match="reads 1024 at most"):
        list(stream(loaded, "la " * 1200, Sampling()))


def test_the_length_is_what_the_model_has_room_for(loaded: Loaded) -> None:
    prompt = "x" * 1000
    used = len(loaded.tokenizer(prompt)["input_ids"])
    written = write_many(loaded, [prompt], Sampling(max_tokens=400))[0]
    assert written.ended or written.tokens == 1024 - used


def test_other_threads_may_write_at_the_same_time(loaded: Loaded) -> None:
    sampling = Sampling(max_tokens=15, seed=2)
    alone = write_many(loaded, ["a"], sampling)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(write_many(loaded, ["a"], sampling))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3


def test_progress_ends_at_all(loaded: Loaded) -> None:
    seen: list[tuple[float, str, float]] = []
    write_many(loaded, ["a", "b", "c"], Sampling(max_tokens=4), batch=2, progress=lambda *now: seen.append(now))
    shares = [share for share, _, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert "tokens/s" in seen[-1][1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.01}, "top-p"),
        ({"max_tokens": 0}, "length"),
        ({"max_tokens": 10**9}, "length"),
        ({"seed": -1}, "seed"),
        ({"repetition_penalty": 0.9}, "repetition"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sampling(**values)
