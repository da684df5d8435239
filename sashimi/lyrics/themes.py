"""Themes and emotions of lyrics, by a list of words. A weak labeller: it counts words and understands nothing.

A label is given where at least SHARE of the words that say anything (all but `words.STOP_WORDS`) are in its list, and
at least LEAST different ones. The lists are short, our own, English and Portuguese; an entry that ends in * stands
for every word that begins so. Its known failures: negation ("no more tears"), irony, images ("my heart is a stone"),
words of two meanings ("rose", "like", "fall"), themes that are told without naming them, older and regional spellings
that nobody listed, and texts in other languages, which get no label. A label says "these words are there", never
"this is what it is about". Whoever shows one says so, as `SOURCE`.

    python -m sashimi.lyrics.themes FOLDER     how many songs of a set get which label
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sashimi.cli import reported_errors
from sashimi.lyrics import dataset
from sashimi.lyrics.dataset import Song
from sashimi.lyrics.words import STOP_WORDS, words

SOURCE = "by word list"
SHARE = 0.025  # of the words that say anything
LEAST = 2  # different words of a list
MOST = 3  # themes, and emotions, that a text is given: those with the largest shares

_THEMES = {
    "love": {
        "en": """love* lover* beloved belov'd darling sweetheart* kiss* embrace* dear dearest tender* adore* passion*
              wooed wooing wed wedded bride* romance""",
        "pt": """amor amores amoros* amar amarei amou amo amas ama amei amad* amante* beij* paixão paixões apaixon*
              namor* querid* noiv* abraç*""",
    },
    "death": {
        "en": """death* dead die dies died dying grave graves tomb* coffin* corpse* bury buried burial funeral* shroud*
              mortal* perish* slain ghost* mourn* churchyard""",
        "pt": "morte* mort* morr* túmulo* cova covas caixão cadáver* enterr* sepult* defunt* fúnebre* luto perec*",
    },
    "faith": {
        "en": """god* lord* jesus christ* heaven* pray* prayer* holy angel* saint* church* bless* saviour savior
              altar* worship* gospel faith* divine hymn* psalm* sin sins sinner*""",
        "pt": """deus deuses jesus cristo senhor céus rez* oração orações sant* anjo* igreja* bênção* bendit* fé divin*
              salvador pecado* pecador* altar* milagre* cruz""",
    },
    "nature": {
        "en": """flower* tree* leaf leaves river* brook* stream* mountain* hill* forest* wood woods meadow* field* bird*
              rose roses lily lilies spring summer autumn winter rain* snow* wind winds breeze* sun sunshine grass
              blossom* bloom* garden*""",
        "pt": """flor flores árvore* folha* rio rios ribeir* montanha* monte* floresta* bosque* campo* ave aves
              pássar* rosa rosas primavera verão outono inverno chuva* neve vento* brisa* sol relva jardim jardins""",
    },
    "sea": {
        "en": "sea seas ocean* wave waves sail* ship ships shore* tide* sailor* billow* foam boat* harbour harbor",
        "pt": "mar mares oceano* onda ondas vela velas navio* nau naus praia* maré* marinh* barco* porto espuma",
    },
    "home and country": {
        "en": """home* homeland country nation* land native fatherland motherland flag flags hearth* village*
              cottage""",
        "pt": "casa lar lares pátria* país terra aldeia* bandeira* nação nações lareira*",
    },
    "war": {
        "en": """war wars battle* soldier* sword* fight* fought army armies foe foes enemy enemies guns cannon* banner*
              victory conquer* march* trumpet* drum* blood* warrior* spear*""",
        "pt": "guerra* batalha* soldado* espada* luta lutas lutar exército* inimig* canhões vitória* sangue guerreir*",
    },
    "work": {
        "en": """work* labour* labor* toil* plough* plow* mill mills miller forge hammer* wages weary farm* cattle herd
              cowboy* harvest* reap reaps reaper* reaping trade job money""",
        "pt": "trabalh* lavr* labut* ofício* colh* ceifa* salário* dinheiro fábrica* enxada* operári* patrão",
    },
    "journey": {
        "en": """road* journey* travel* wander* roam* ride rode riding trail* pilgrim* path paths pathway* farewell
              goodbye distant highway train miles""",
        "pt": "estrada* viagem viagens viaj* caminh* vagar* vagu* peregrin* partir parti partida* adeus longe jornada*",
    },
    "childhood": {
        "en": """child* baby babe babes boy boys girl girls cradle* mother mamma toy toys play played playing
              lullaby school*""",
        "pt": "criança* menin* infância* berço* brinc* mãe mamã brinquedo* pequenin* escola*",
    },
    "night and dreams": {
        "en": "night* moon* star stars starry midnight dark* evening twilight sleep* dream* dusk shadow* slumber*",
        "pt": "noite* lua luar estrela* escur* treva* crepúsculo* dorm* sonh* sono sombra* madrugada*",
    },
    "time": {
        "en": """time times year years hour hours age ages old past yesterday morrow tomorrow memory memories
              remember* youth""",
        "pt": "tempo* ano anos hora horas idade* velh* passado ontem amanhã memória* lembr* record* juventude mocidade",
    },
}  # fmt: skip
_EMOTIONS = {
    "joy": {
        "en": """joy* happy happiness glad* merry mirth* laugh* smile* smiling delight* cheer* gay bliss* rejoice*
              pleasure* sing singing dance*""",
        "pt": "alegr* feliz* felic* ri riso* risonh* sorri* contente* prazer* cant* danç* júbilo festa*",
    },
    "sorrow": {
        "en": """sorrow* sad sadly sadness grief* griev* tear tears weep* wept cry cried crying sigh sighs sighed
              sighing woe* lonely lonesome pain pains painful broken* misery despair* mourn*""",
        "pt": """trist* dor dores mágoa* lágrima* chor* pranto* sofr* solidão sozinh* desesper* infeliz* pena penas
              amargo amarga amargura*""",
    },
    "anger": {
        "en": "anger angry rage* wrath* hate* hatred fury furious curse* scorn* revenge* vengeance bitter* cruel*",
        "pt": "raiva* ira irad* ódio* odei* fúria furios* maldi* vingan* despre* cruel cruéis",
    },
    "fear": {
        "en": "fear* afraid dread* terror* horror* fright* tremble* trembling danger* doom* scared haunt*",
        "pt": "medo* temer teme temo temia temor temores terror* horror* assust* trem* perig* pavor* espant* receio*",
    },
    "longing": {
        "en": "longing longed yearn* miss missed missing wish* hope* desire* await* waiting absent absence",
        "pt": "saudade* saudos* anseio* ansi* desej* esper* ausên* ausente* falta falto",
    },
}  # fmt: skip
THEMES, EMOTIONS = tuple(_THEMES), tuple(_EMOTIONS)
LANGUAGES = ("en", "pt")
# Words that begin as an entry does and mean something else.
_NOT_ENGLISH = """
glade glades cheerless joyless loveless passionless tenderfoot tenderfeet nightingale nightingales deathless homer
homer's homeric goddess goddesses bittern bitterns bloodless fearless fearlessly faithless hopeless hopelessly
childless tideless pathless starling starlings darkling
"""
_NOT_PORTUGUESE = "chorus canteiro canteiros tremendo tremenda tremeluzir tremulamente esperto esperta morteiro"
_NOT = {"en": frozenset(_NOT_ENGLISH.split()), "pt": frozenset(_NOT_PORTUGUESE.split())}


@dataclass(frozen=True)
class Labels:
    """Of one text. themes, emotions: largest share first; either may be empty."""

    themes: tuple[str, ...] = ()
    emotions: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[str]:
        return frozenset(self.themes + self.emotions)

    def __str__(self) -> str:
        return f"themes: {', '.join(self.themes) or 'none'}; emotions: {', '.join(self.emotions) or 'none'}"


def label(text: str, language: str) -> Labels:
    """The labels of lyrics; none in a language without lists."""
    language = language[:2]
    if language not in LANGUAGES:
        return Labels()
    counts = Counter(word for word in words(text) if word not in STOP_WORDS[language])
    said = counts.total()

    def found(kind: str) -> tuple[str, ...]:
        shares: dict[str, float] = {}
        for name, (whole, beginnings) in _lists(kind, language).items():
            hits = {w: n for w, n in counts.items() if w in whole or _begins(w, beginnings, language)}
            if len(hits) >= LEAST and sum(hits.values()) >= SHARE * said:
                shares[name] = sum(hits.values()) / said
        return tuple(sorted(shares, key=lambda name: -shares[name])[:MOST])

    return Labels(found("themes"), found("emotions"))


def parse(answer: str) -> Labels:
    """The labels that an answer names, whatever it says besides; the first so many of each kind."""
    lower = answer.casefold()

    def named(known: Iterable[str]) -> tuple[str, ...]:
        places = {name: lower.find(name) for name in known}
        present = [name for name in places if places[name] >= 0]
        return tuple(sorted(present, key=lambda name: places[name])[:MOST])

    return Labels(named(THEMES), named(EMOTIONS))


@cache
def _lists(kind: str, language: str) -> dict[str, tuple[frozenset[str], tuple[str, ...]]]:
    lists = {}
    for name, by_language in (_THEMES if kind == "themes" else _EMOTIONS).items():
        entries = by_language[language].split()
        beginnings = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
        lists[name] = (frozenset(entry for entry in entries if not entry.endswith("*")), beginnings)
    return lists


def _begins(word: str, beginnings: tuple[str, ...], language: str) -> bool:
    return word.startswith(beginnings) and word not in _NOT[language]


def coverage(songs: Iterable[Song]) -> dict[str, dict[str, int]]:
    """By language: how many songs there are ("songs"), how many have a theme, an emotion, neither, and each label."""
    counts: dict[str, Counter[str]] = {}
    for song in songs:
        found = label(song.lyrics, song.language)
        counts.setdefault(song.language, Counter()).update(
            ["songs", *(["a theme"] if found.themes else []), *(["an emotion"] if found.emotions else []),
             *([] if found.all else ["neither"]), *found.all]
        )  # fmt: skip
    return {language: dict(counted.most_common()) for language, counted in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sashimi.lyrics.themes", description="How many songs get which label."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a set of songs made by sashimi.lyrics.prepare")
    folder = parser.parse_args().folder
    with reported_errors():
        for language, counted in coverage(dataset.songs(folder, "train")).items():
            print(f"{language}, train, {SOURCE}:")
            for name, songs in counted.items():
                print(f"  {songs:7,}  {songs / counted['songs']:4.0%}  {name}")


if __name__ == "__main__":
    main()
