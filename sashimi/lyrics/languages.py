"""The language of a text: ISO 639-1 codes, by what the source states and by what the text looks like.

Identified by py3langid: a model of 5 MB inside the package, nothing is downloaded.
"""

import difflib
from functools import cache
from typing import Any

from sashimi.errors import UserError

UNKNOWN = "und"  # undetermined, as ISO 639-2 has it
ENOUGH = 600  # characters; more are not better, only slower
SURE = 0.95  # of the identified language, before it is held against what the source states

NAMES = {
    "af": "Afrikaans", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "br": "Breton", "bs": "Bosnian",
    "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian",
    "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh",
    "ko": "Korean", "ku": "Kurdish", "la": "Latin", "lb": "Luxembourgish", "lt": "Lithuanian", "lv": "Latvian",
    "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese",
    "nb": "Norwegian Bokmål", "ne": "Nepali", "nl": "Dutch", "nn": "Norwegian Nynorsk", "no": "Norwegian",
    "oc": "Occitan", "pa": "Punjabi", "pl": "Polish", "pt": "Portuguese", "qu": "Quechua", "ro": "Romanian",
    "ru": "Russian", "rw": "Kinyarwanda", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian", "so": "Somali",
    "sq": "Albanian", "sr": "Serbian", "su": "Sundanese", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "th": "Thai", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "wa": "Walloon", "xh": "Xhosa", "yi": "Yiddish", "yo": "Yoruba", "zh": "Chinese",
    "zu": "Zulu", UNKNOWN: "unknown",
}  # fmt: skip
_CODES = {name.casefold(): code for code, name in NAMES.items()} | {
    "eng": "en", "por": "pt", "spa": "es", "ita": "it", "fra": "fr", "fre": "fr", "deu": "de", "ger": "de",
    "português": "pt", "portugues": "pt", "inglês": "en", "español": "es", "français": "fr", "deutsch": "de",
    "italiano": "it", "brazilian portuguese": "pt",
}  # fmt: skip
# Too close to tell apart with certainty: never held against a source.
_CLOSE = ({"pt", "gl"}, {"no", "nb", "nn", "da"}, {"hr", "bs", "sr"}, {"id", "ms", "jv"}, {"cs", "sk"}, {"af", "nl"},
          {"es", "gl"}, {"ca", "oc"}, {"xh", "zu"}, {"de", "lb"})  # fmt: skip


def code(stated: str | None) -> str | None:
    """The code of "en", "pt-BR", "ENGLISH" or "Português"; None for what is not known."""
    word = (stated or "").strip().casefold()
    if word in _CODES:
        return None if _CODES[word] == UNKNOWN else _CODES[word]
    short = word.replace("_", "-").split("-")[0]
    return short if short in NAMES and short != UNKNOWN else None


def required(given: str) -> str:
    """`code` of what a person gave. Raises UserError, which names a language that is spelt alike."""
    found = code(given)
    if found is None:
        near = difflib.get_close_matches(given.strip().casefold(), [n.casefold() for n in NAMES.values()], n=1)
        hint = f"did you mean {_CODES[near[0]]} ({name(_CODES[near[0]])})?" if near else "give a code as en, pt, es"
        raise UserError(f"unknown language {given[:40]!r}; {hint}")
    return found


def name(language: str) -> str:
    return NAMES.get(language, language)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """Code and probability of the language that a text is most likely in; "und" where none is more likely than not."""
    language, probability = _identifier().classify(text[:ENOUGH])
    return (str(language), float(probability)) if probability > 0.5 else (UNKNOWN, float(probability))


def contradicts(stated: str, identified: str, probability: float) -> bool:
    """Whether a text is surely not in the language that its source states."""
    if stated == identified or probability < SURE or identified == UNKNOWN:
        return False
    return not any({stated, identified} <= close for close in _CLOSE)
