"""Texts of lyrics: what stays, what goes, what becomes a section marker, what can no longer be a command."""

import pytest

from sashimi.lyrics.cleaning import clean, clean_line, unreadable
from sashimi.lyrics.languages import code, contradicts, name
from sashimi.lyrics.sections import marker, split_marker, sung
from sashimi.lyrics.tokens import CONTROL_TOKENS, neutral
from sashimi.lyrics.words import STOP_WORDS, words


def test_lines_accents_and_scripts_stay() -> None:
    text = "Coração, não é\nàs três\n\nПесня моя\n歌を歌う\nमेरा गीत"
    assert clean(text) == text


def test_what_cannot_be_seen_goes() -> None:
    given = "\ufeff  Cora\u0063\u0327a\u0303o\u200b \u00a0 meu\t\r\nline two   \r\r\r\n\n\nline\x07 three\u2028four  "
    assert clean(given) == "Coração meu\nline two\n\nline three\nfour"


def test_joiners_that_scripts_need_stay() -> None:
    assert clean("می\u200cخواهم") == "می\u200cخواهم"


def test_markup_of_web_pages_goes() -> None:
    assert clean("One<br>two<br />three &amp; <i>four</i>") == "One\ntwo\nthree & four"
    assert clean(r"One\ntwo\r\nthree") == "One\ntwo\nthree"
    assert clean("12 ContributorsMy Song Lyrics\nOne\nYou might also like\n[Produced by Ann]\nTwo12Embed") == "One\nTwo"


def test_clean_is_idempotent() -> None:
    given = "[Verse 1: Ann]\nOne [x] <s>\n\n\nRefrão:\nTwo &lt;3\nChorus x2\n(Ponte)\nThree"
    assert clean(clean(given)) == clean(given)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[Chorus]", "[Chorus]"),
        ("[CHORUS: Ann & Bob]", "[Chorus]"),
        ("Refrão:", "[Chorus]"),
        ("[coro]", "[Chorus]"),
        ("REFRÃO (2x)", "[Chorus]"),
        ("Chorus x2", "[Chorus]"),
        ("(Verse 2)", "[Verse 2]"),
        ("Verse IV", "[Verse 4]"),
        ("{Verso 1}", "[Verse 1]"),
        ("[Pré-Refrão]", "[Pre-Chorus]"),
        ("[Puente]", "[Bridge]"),
        ("Ponte:", "[Bridge]"),
        ("[Intro - Ann]", "[Intro]"),
        ("[Guitar Solo]", "[Instrumental]"),
        ("(Outro)", "[Outro]"),
    ],
)
def test_markers(line: str, expected: str) -> None:
    assert split_marker(line) == (expected, "")
    found = marker(expected)
    assert found is not None
    assert expected.startswith(f"[{found[0]}")


@pytest.mark.parametrize(
    "line",
    ["Solo", "Ponte", "Coro", "Hook", "The chorus sings", "(Part of me)", "Final", "Verse by verse", "I"],
)
def test_lines_that_are_sung_are_no_markers(line: str) -> None:
    assert split_marker(line) is None


def test_a_marker_before_a_line_gets_its_own() -> None:
    assert clean("One\n[Chorus] Sing it\nChorus: and again") == "One\n\n[Chorus]\nSing it\n\n[Chorus]\nand again"
    assert sung("One\n\n[Chorus]\nSing it") == ["One", "Sing it"]


@pytest.mark.parametrize(
    "token", [*CONTROL_TOKENS, "<s>", "</s>", "<|eot_id|>", "<|im_start|>", "[INST]", "[/INST]", "<<SYS>>",
              "<｜end▁of▁sentence｜>", "<think>", "<start_of_turn>", "[PAD]"]
)  # fmt: skip
def test_no_text_holds_a_control_token(token: str) -> None:
    for text in (token, f"sing {token} now", f"{token}{token}", f"<{token}>", f"[{token}]"):
        assert token not in neutral(text)
        assert token not in clean(f"before\n{text}\nafter")
        assert token not in (clean_line(text) or "")
        assert neutral(neutral(text)) == neutral(text)


def test_a_control_token_cannot_be_hidden_in_invisible_characters_or_entities() -> None:
    assert "<|eot_id|>" not in clean("a <|eot\u200b_id|> b")
    assert "<s>" not in clean("a &lt;s&gt; b")


def test_hearts_and_comparisons_stay() -> None:
    assert neutral("I <3 you, 1 < 2 > 0") == "I <3 you, 1 < 2 > 0"


def test_titles_are_one_line() -> None:
    assert clean_line(" My\n Song [Live] ") == "My Song (Live)"
    assert clean_line(" \u200b ") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("linha \udce7 dois", "wrong encoding"),
        ("\x00\x01\x02 a", "binary"),
        ("cora\ufffdo", "broken characters"),
        ("coraÃ§Ã£o e alma", "broken characters"),
        ("ELE E A MÃE, O PÃO", None),
        ("one\n\ttwo\r\n", None),
    ],
)
def test_unreadable(text: str, reason: str | None) -> None:
    assert unreadable(text) == reason


def test_languages_by_any_name() -> None:
    assert [code(s) for s in ("en", "pt-BR", "ENGLISH", "Português", "POR", "xx", "", None)] == [
        "en", "pt", "en", "pt", "pt", None, None, None,
    ]  # fmt: skip
    assert name("pt") == "Portuguese"


def test_close_languages_are_not_held_against_a_source() -> None:
    assert contradicts("en", "pt", 0.99)
    assert not contradicts("en", "pt", 0.8)
    assert not contradicts("pt", "gl", 0.99)


def test_words_keep_apostrophes_and_stop_words_are_words() -> None:
    assert words("Don’t stop, coração!") == ["don't", "stop", "coração"]
    for language, stop in STOP_WORDS.items():
        assert {w for w in stop if words(w) != [w]} <= {"'cause", "'em", "'tis", "'twas"}, language
