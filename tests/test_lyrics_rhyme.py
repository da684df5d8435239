"""Rhymes are heard, schemes are found in real verse, and vanish when its lines are shuffled."""

import random

import pytest

from sashimi.lyrics import english, portuguese
from sashimi.lyrics.rhyme import canonical, density, ending, recognised, relation, scheme, schemes, stanzas

# Blake, "The Tyger" and "A Poison Tree"; Camões, Sonnet; all long in the public domain.
TYGER = """Tyger Tyger, burning bright,
In the forests of the night;
When the stars threw down their spears
And water'd heaven with their tears:

In what distant deeps or skies,
Burnt the fire of thine eyes?
On what wings dare he aspire?
What the hand, dare seize the fire?"""
POISON_TREE = """I was angry with my friend;
I told my wrath, my wrath did end.
I was angry with my foe:
I told it not, my wrath did grow.

And I watered it in fears,
Night and morning with my tears;
And I sunned it with smiles,
And with soft deceitful wiles.

And it grew both day and night,
Till it bore an apple bright.
And my foe beheld it shine,
And he knew that it was mine"""
CAMOES = """Amor é um fogo que arde sem se ver,
É ferida que dói, e não se sente;
É um contentamento descontente,
É dor que desatina sem doer.

É um não querer mais que bem querer;
É um andar solitário entre a gente;
É nunca contentar-se de contente;
É um cuidar que ganha em se perder.

É querer estar preso por vontade;
É servir a quem vence, o vencedor;
É ter com quem nos mata, lealdade.

Mas como causar pode seu favor
Nos corações humanos amizade,
Se tão contrário a si é o mesmo Amor?"""


def kind(a: str, b: str, language: str) -> str | None:
    return relation(ending(a, language), ending(b, language))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("night", "light", "perfect"),
        ("Night!", "the same night", "identical"),
        ("memory", "sea", "perfect"),  # promoted in verse
        ("happiness", "success", "perfect"),
        ("again", "pain", "perfect"),  # one of its two pronunciations
        ("lov'd", "beloved dove", None),
        ("lost", "cost", "perfect"),
        ("war", "far", "loose"),
        ("love", "prove", "loose"),
        ("fear", "here", "perfect"),
        ("o'er", "shore", "perfect"),
        ("unsought", "thought", "perfect"),  # a word that the dictionary lacks, of parts that it has
        ("singin'", "bringin'", "perfect"),
        ("eye", "symmetry", None),
        ("love", "night", None),
        ("moving", "loving", "loose"),
        ("(oh)", "go...", "perfect"),
    ],
)
def test_english(a: str, b: str, expected: str | None) -> None:
    assert kind(a, b, "en") == expected == kind(b, a, "en")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("coração", "paixão", "perfect"),
        ("dia", "alegria", "perfect"),
        ("história", "vitória", "perfect"),
        ("dia", "história", None),
        ("voz", "nós", "perfect"),
        ("beleza", "mesa", "perfect"),
        ("dizê-lo", "belo", "perfect"),
        ("mãe", "também", "perfect"),
        ("céo", "chapéu", "perfect"),  # before 1911
        ("solitario", "vário", "perfect"),
        ("elle", "pelle", "perfect"),
        ("aqui", "você", None),
        ("guerra", "terra", "perfect"),
        ("canto", "amado", "loose"),
        ("amor", "amor", "identical"),
        ("amor", "luz", None),
        ("cair", "ouvir", "perfect"),
        ("ruim", "fim", "perfect"),
        ("mudança", "alcança", "perfect"),
        ("contricto", "maldito", "perfect"),
    ],
)
def test_portuguese(a: str, b: str, expected: str | None) -> None:
    assert kind(a, b, "pt") == expected == kind(b, a, "pt")


@pytest.mark.parametrize(
    ("word", "nuclei", "stressed"),
    [
        ("saída", ["a", "í", "a"], 1), ("água", ["á", "a"], 0), ("rainha", ["a", "i", "a"], 1),
        ("juiz", ["u", "i"], 1),
        ("quando", ["a", "o"], 0), ("amaram", ["a", "a", "a"], 1), ("falei", ["a", "ei"], 1),
        ("homem", ["o", "e"], 0), ("órgão", ["ó", "ão"], 0), ("ninguém", ["i", "é"], 1),
        ("muito", ["ui", "o"], 0), ("viagem", ["i", "a", "e"], 1),
        ("ajudá-lo", ["a", "u", "á", "o"], 2), ("história", ["i", "ó", "ia"], 1), ("sarau", ["a", "au"], 1),
    ],
)  # fmt: skip
def test_portuguese_syllables_and_stress(word: str, nuclei: list[str], stressed: int) -> None:
    sound = portuguese.sound(word)
    assert sound is not None
    assert (list(sound.nuclei), sound.stressed) == (nuclei, stressed)


def test_the_dictionary_and_what_stands_in_for_it() -> None:
    assert english.pronunciations("night") == ((("N", "AY1", "T"),), True)
    assert english.pronunciations("heav'n")[1]
    assert english.pronunciations("lingereth")[1]
    (phones,), known = english.pronunciations("blorptane")
    assert not known
    assert phones[-2:] == ("EY1", "N")
    assert english.pronunciations("zzz")[0] == (("AH1",),) or english.pronunciations("zzz")[1]
    assert english.pronunciations("Żółć".casefold())[0]  # whatever is written, something is heard


def test_schemes_of_real_verse() -> None:
    assert schemes(TYGER, "en") == [("AABB", "AA"), ("AABB", "AA")]
    lines = [line for stanza in stanzas(CAMOES) for line in stanza]
    assert scheme(lines, "pt") == "ABBAABBACDCDCD"
    # The two tercets are one stanza.
    assert schemes(CAMOES, "pt") == [("ABBA", "ABBA"), ("ABBA", "ABBA"), ("ABABAB", "ABABAB")]
    assert [name for _, name in schemes(CAMOES.replace("\n\n", "\n"), "pt") or []] == ["ABBA", "ABBA", "ABABAB"]
    found = density(CAMOES, "pt")
    assert found is not None
    assert found.perfect == 1
    assert found.identical == 0


def test_shuffled_lines_rhyme_less() -> None:
    poem = f"{TYGER}\n\n{POISON_TREE}"
    lines = [line for stanza in stanzas(poem) for line in stanza]
    real = density(poem, "en")
    shuffled = []
    for seed in range(5):
        mixed = random.Random(seed).sample(lines, len(lines))
        text = "\n\n".join("\n".join(mixed[i : i + 4]) for i in range(0, len(mixed), 4))
        found = density(text, "en")
        assert found is not None
        shuffled.append(found.perfect)
        assert sum(name is not None for _, name in schemes(text, "en") or []) < 5
    assert real is not None
    assert real.perfect == 1
    assert max(shuffled) < 0.75


def test_the_same_word_is_no_rhyme() -> None:
    found = density("\n".join(["I love you so"] * 4), "en")
    assert found is not None
    assert (found.perfect, found.identical) == (0, 1)
    assert schemes("\n".join(["I love you so"] * 4), "en") == [("AAAA", "AAAA")]  # a refrain has a scheme


def test_rhymes_far_away_do_not_count() -> None:
    far = density("light\nlove\nsong\nriver\nmother\ndance\nnight", "en")
    assert far is not None
    assert far.perfect == 0


def test_a_word_of_two_sounds_joins_no_two_classes() -> None:
    # "again" rhymes with both, and they do not rhyme.
    assert scheme(["pain", "again", "men"], "en") == "AAB"


def test_other_languages_and_no_words() -> None:
    assert density("uno\ndos\nuno", "es") is None
    assert schemes("uno\ndos", "es") is None
    assert density("...\n!!!", "en") is None
    assert schemes("", "en") == []
    assert scheme(["!!", "love", "!!"], "en") == "ABC"


def test_named_schemes() -> None:
    assert canonical("CDDC") == "ABBA"
    assert recognised("ABABCDCD") == "ABAB"
    assert recognised("AABBCCDD") == "AA"
    assert recognised("ABCDEFGH") is None
    assert recognised("ABCBDEFE") == "ABCB"
