"""BLEU, ROUGE and cosine against the real lyrics."""

from pathlib import Path

import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

from sashimi.errors import UserError
from sashimi.lyrics.overlap import Embedding, bleu, corpus_bleu, cosines, embedding, rouge

REAL = "Não sei se é amor\nou se é coração\n\n[Chorus]\né a canção da manhã"


def test_the_same_text_and_another() -> None:
    assert bleu(REAL, REAL) == pytest.approx(1)
    assert corpus_bleu([REAL, REAL], [REAL, REAL]) == pytest.approx(1)
    assert rouge(REAL, REAL) == {"rouge_1": 1, "rouge_2": 1, "rouge_l": 1}
    other = "Walking alone under the moon tonight\nthe river carries every word"
    assert bleu(other, REAL) < 0.05
    assert rouge(other, REAL) == {"rouge_1": 0, "rouge_2": 0, "rouge_l": 0}
    assert bleu("", REAL) == 0
    assert rouge("", REAL)["rouge_1"] == 0


def test_accents_stay_in_their_words() -> None:
    # Split at letters that are not ASCII, "coração" and "canção" would share a word.
    assert rouge("coração", "canção")["rouge_1"] == 0
    assert rouge("coração", "Coração!")["rouge_1"] == 1
    assert rouge("é nós avó", "e nos avo")["rouge_1"] == 0
    assert rouge("não é bom", "não é mau")["rouge_2"] == pytest.approx(0.5)


def test_markers_and_blank_lines_are_not_compared() -> None:
    assert rouge("[Chorus]\n\n[Verse]\nlove", "[Chorus]\n\n[Verse]\nhate")["rouge_1"] == 0


def test_the_order_of_lines_counts_for_rouge_l() -> None:
    lines = [f"w{a} x{a} y{a} z{a}".translate(str.maketrans("0123", "abcd")) for a in range(4)]
    mixed = rouge("\n".join(lines[::-1]), "\n".join(lines))
    assert mixed["rouge_1"] == 1
    assert mixed["rouge_l"] == pytest.approx(0.25)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random sentence embedder of width 16."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "love", "night", "rain", "sea", "."])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_cosine(bert: Path) -> None:
    model = Embedding(str(bert))
    reals = model.vectors(["love night", "rain rain sea", "sea"])
    same, other, nothing = cosines(model, ["love\nnight", "love", ""], reals)
    assert same == pytest.approx(1, abs=1e-5)
    assert other is not None
    assert -1 <= other < 0.999
    assert nothing is None
    # A text's vector does not depend on how much its neighbours are padded.
    alone = model.vectors(["sea"])
    assert abs(alone[0] @ reals[2] - 1) < 1e-5


def test_no_embedding_model_is_said_and_not_fatal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be had"):
        Embedding(str(tmp_path / "none"))
    said = embedding(str(tmp_path / "none"))
    assert isinstance(said, str)
    assert "none" in said
