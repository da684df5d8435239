"""What a model is asked, in words, and which tokens end its answer.

A prompt is text in which every special token is written out: tokenise it with `ids`, which adds none.
"""

from dataclasses import dataclass
from typing import Any

from sashimi.errors import UserError
from sashimi.lyrics import languages
from sashimi.lyrics.cleaning import TITLE_LIMIT, clean_line
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.selection import unit

_PLAIN = "### Instruction:\n{}\n\n### Response:\n"


@dataclass(frozen=True)
class Request:
    """A song to be written.

    title       or None where `first_line` is given
    language    ISO 639-1
    artist      in whose manner;   genre;   first_line: how it begins
    """

    title: str | None
    language: str = "en"
    artist: str | None = None
    genre: str | None = None
    first_line: str | None = None

    def __post_init__(self) -> None:
        """Texts become single lines without control tokens. Raises UserError for what cannot be asked."""
        for name in ("title", "artist", "genre", "first_line"):
            text = clean_line(getattr(self, name))
            if text is not None and len(text) > TITLE_LIMIT:
                called = name.replace("_", " ")
                raise UserError(f"the {called} has {len(text):,} characters; at most {TITLE_LIMIT} are understood")
            object.__setattr__(self, name, text)
        if self.title is None and self.first_line is None:
            raise UserError("the title is empty; give one, or a first line")
        object.__setattr__(self, "language", languages.required(self.language))


def instruction(request: Request) -> str:
    """A short request in plain words: Portuguese for a song in Portuguese, else English."""
    r = request
    if r.language == "pt":
        said = "Escreva a letra de uma música" + (f' chamada "{r.title}"' if r.title else "")
        said += f" no gênero {r.genre}" if r.genre else ""
        said += f" no estilo de {r.artist}" if r.artist else ""
        said += f'. Ela começa com o verso "{r.first_line}"' if r.first_line else ""
        return said + "."
    said = "Write the lyrics of a song" + ("" if r.language == "en" else f" in {languages.name(r.language)}")
    said += f' called "{r.title}"' if r.title else ""
    said += f" in the genre {r.genre}" if r.genre else ""
    said += f" in the style of {r.artist}" if r.artist else ""
    said += f'. It begins with the line "{r.first_line}"' if r.first_line else ""
    return said + "."


def described(request: Request) -> str:
    """`instruction` with a description of the task before it, for a model that has not been adapted to it."""
    if request.language == "pt":
        return (
            "Você é um compositor. Responda apenas com a letra da música, um verso por linha, uma linha em branco "
            "entre as estrofes e [Chorus] antes do refrão. Não explique nada.\n\n" + instruction(request)
        )
    return (
        "You are a songwriter. Answer with the lyrics alone, one line of verse a line, a blank line between stanzas "
        "and [Chorus] before the chorus. Explain nothing.\n\n" + instruction(request)
    )


def asked(song: Song, seed: int) -> Request:
    """The request that a song of a data set answers.

    Artist, genre and first line are in about half of the requests each, by hashes of the song and the seed, so that
    every combination of them is learnt. A song without a title is asked for by its first line.
    """

    def wanted(what: str, share: float = 0.5) -> bool:
        return unit(f"{seed} {what} {song.id}") < share

    language = song.language if song.language != languages.UNKNOWN else "en"
    title, first = song.title, None
    if title is None or wanted("first line", 0.25):
        line = next((line for line in song.lyrics.split("\n") if line and line[0] != "["), "")
        first = line[:TITLE_LIMIT].strip() or None
    return Request(
        title, language, song.artist if wanted("artist") else None, song.genre if wanted("genre") else None, first
    )


def prompt(tokenizer: Any, text: str) -> str:
    """The whole text up to where the answer begins: by the tokeniser's chat template, or a plain form without one."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return (tokenizer.bos_token if _begins(tokenizer) else "") + _PLAIN.replace("{}", text)


def ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a prompt or of an answer: as they are written, with none added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_ids(tokenizer: Any) -> list[int]:
    """The tokens that end an answer; the first is the one that training puts there.

    By the chat template, what follows an answer; and the tokeniser's end of text. Raises UserError for none.
    """
    found = [_answer_end(tokenizer)] if tokenizer.chat_template else []
    known = [token for token in (*found, tokenizer.eos_token_id) if token is not None]
    if not known:
        raise UserError(f"the tokenizer of {tokenizer.name_or_path} has no token that ends a text; use another model")
    return list(dict.fromkeys(known))


def _answer_end(tokenizer: Any) -> int | None:
    """The special token that the chat template puts right after an answer."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "xyzzy"}]
    rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
    after = ids(tokenizer, rendered.rpartition("xyzzy")[2].lstrip())
    return after[0] if after and after[0] in _special(tokenizer) else None


def _special(tokenizer: Any) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)


def _begins(tokenizer: Any) -> bool:
    """Whether the tokeniser itself puts a token before every text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
