"""Words of lyrics, and those of English and Portuguese that say nothing of what a song is about."""

import re

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

_ENGLISH = """
a about above across after again against ain't all along am an and any are aren't around as at away back be
because been before behind being below beneath beside between both but by can can't cannot 'cause cause come
could couldn't did didn't do does doesn't doing don't done down each either else em 'em ere even ever every few
for from gonna gotta had has hasn't hath have haven't having he he'd he'll he's her here here's hers herself him
himself his how i i'd i'll i'm i've if in into is isn't it it'd it'll it's its itself just let let's like many
may me might mine more most much must my myself near never no nor not now o of off oh on once one only or other
our ours ourselves out over own shall shalt she she'd she'll she's should so some still such than that that's
the thee their theirs them themselves then there there's these they they'd they'll they're they've thine this
those thou though through thus thy till 'tis tis to too toward towards twas 'twas under unto until up upon us
very wanna was wasn't we we'd we'll we're we've well were weren't what what's whate'er when where where's which
while who who's whom whose why will with within without won't would wouldn't yea yeah yet you you'd you'll
you're you've your yours yourself
"""
_PORTUGUESE = """
a à ah ainda algo alguém algum alguma algumas alguns ali ao aos aquela aquelas aquele aqueles aqui aquilo as às
assim até bem cada com como d'alma d'um d'uma da daquela daquele das de dela delas dele deles demais depois
desde dessa desse desta deste disso disto do dos e é ela elas ele eles em enquanto entre era eram és essa essas
esse esses esta está estão estar estás estas estava este estes estou eu foi foram for fosse fui há havia hei ia
isso isto já la lá lhe lhes lo logo m'o mais mas me mesma mesmo meu meus mim minha minhas muita muito muitos na
nada não nas nela nele nem nenhum nenhuma nessa nesse nesta neste ninguém no nos nós nossa nossas nosso nossos
num numa nunca o ó oh onde ora os ou outra outras outro outros para pela pelas pelo pelos per pois por porém
porque pra pro qual quais quando quanta quanto que quê quem s'o são se sé seja sem sempre sendo ser será seria
seu seus si só sob sobre sois somos sou sua suas tal talvez também tão te tem têm tenho tens ter teu teus teve
ti tinha toda todas todo todos tu tua tuas tudo um uma umas uns vai vão vem vez vos vós vossa vosso você vocês
vou
"""
STOP_WORDS = {"en": frozenset(_ENGLISH.split()), "pt": frozenset(_PORTUGUESE.split())}


def words(text: str) -> list[str]:
    """The words of a text in lower case, the apostrophe always straight."""
    return [word.replace("’", "'") for word in WORD.findall(text.casefold())]
