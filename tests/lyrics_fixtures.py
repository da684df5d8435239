"""A tiny language model and a few songs, for tests of the companion."""

from pathlib import Path

import pytest

from sashimi.lyrics import dataset
from sashimi.lyrics.dataset import Song

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["love", "night", "rain", "river", "moon", "stone", "road", "amor", "noite", "chuva", "rio", "lua", "pedra"]


def make_llama(folder: Path, chat: bool = True, tied: bool = False) -> Path:
    """A random Llama of 2 layers, width 32, with a tokeniser of some 400 tokens, saved as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [f"{a} {b}\n{b} of {a}, user assistant Write a song" for a in WORDS for b in WORDS]
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>" if chat else "<|endoftext|>", pad_token="<|endoftext|>"
    )
    if chat:
        tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=tied, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder saved by save_pretrained, with a ChatML template."""
    pytest.importorskip("transformers")
    return make_llama(tmp_path_factory.mktemp("llama"))


def make_songs(folder: Path, train: int = 12, held_out: int = 4) -> Path:
    """A prepared set of songs: two artists, two genres, English and Portuguese in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for split, count in (("train", train), ("val", held_out), ("test", held_out)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(count):
                a, b = WORDS[number % len(WORDS)], WORDS[(7 * number + 3) % len(WORDS)]
                language = ("en", "pt")[number % 2]
                lyrics = f"{a} and {b}\n{b} of the {a}\n\n[Chorus]\n{a}, {a}, {b}\nla la {b} {number}"
                song = Song(
                    f"{number:016x}", f"{a} {number}", ("Ann", "Bob")[number % 2], language,
                    ("rock", "folk")[number // 2 % 2], lyrics, f"songs.jsonl:{number + 1}", "public domain",
                )  # fmt: skip
                file.write(song.line())
                number += 1
    values = {
        "name": "tiny", "licence": "public domain", "songs": number, "splits": {"train": train, "val": held_out},
        "content_hash": dataset.content_hash(folder),
    }  # fmt: skip
    dataset.write_described(folder, values)
    return folder


@pytest.fixture(scope="session")
def tiny_songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_songs(tmp_path_factory.mktemp("songs") / "tiny")
