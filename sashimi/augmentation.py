"""What training does to the tokens that a model hears, and to those that it is to predict.

Bits per byte ask for the next sample of a recording. A model that plays hears its own samples, and gets to places where
no recording is: noise under its notes, tones that never die away, a silence that does not end. So it is trained there.
"""

import torch
from torch import Tensor

IGNORED = -100  # in place of a token that is not to be learnt
FRAME = 256  # samples whose energies are compared to find where notes begin
RISE, LEAST = 6.0, 5e-4  # a note begins where the energy grows by this factor (8 dB), and to this (-33 dBFS)
SHORTEST, LONGEST = 200, 8000  # samples of a gap
ENTRY = 48  # its first samples, from which nobody could tell that it comes
FADES = 0.5  # share of the gaps that fade towards the note, and are not silent
DEPTHS = (-50.0, -12.0)  # dB at the end of a fade, from and to


def jittered(tokens: Tensor, jitter: float, vocab: int) -> Tensor:
    """Noise on tokens, of a standard deviation in levels drawn for every row from 0 to `jitter`. i(B L) -> i64(B L)."""
    level = jitter * torch.rand(len(tokens), 1, device=tokens.device)
    moved = tokens + (level * torch.randn(tokens.shape, device=tokens.device)).round().long()
    return moved.clamp(0, vocab - 1)


def with_gaps(tokens: Tensor, share: float, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Gaps that end where a note of the recording begins, in this share of the rows that have such a place.

    Half of the gaps are silent: recordings are hardly ever silent before they end, so a model that happens to fall
    silent stays so. The silence is to be predicted, and the note after it, but not that it comes: its first samples are
    IGNORED. The others fade, evenly in dB, to what is soft but not silent: a model that noise drives holds some tones
    for ever, and from these it learns that what sounds dies away, and that notes begin over what is left.

    tokens: i(B L); amplitudes: f(vocab) of the tokens, silence in the middle. Returns what is heard, i64(B L), and what
    is to be predicted, i64(B L).
    """
    heard = tokens.long().clone()
    hidden = torch.zeros_like(heard, dtype=torch.bool)
    for row in range(len(heard)):
        if float(torch.rand(())) >= share or (end := _beginning(amplitudes[heard[row]])) is None:
            continue
        start = max(0, end - int(torch.randint(SHORTEST, LONGEST, ())))
        if float(torch.rand(())) < FADES:
            heard[row, start:end] = _faded(heard[row, start:end], amplitudes)
        else:
            heard[row, start:end] = len(amplitudes) // 2
            hidden[row, start : min(start + ENTRY, end)] = True
    return heard, heard.masked_fill(hidden, IGNORED)


def _faded(tokens: Tensor, amplitudes: Tensor) -> Tensor:
    """Evenly in dB from as loud as it is to one of DEPTHS. i64(L) -> i64(L)."""
    depth = float(torch.empty(()).uniform_(*DEPTHS))
    gains = 10 ** (torch.linspace(0, depth, len(tokens), device=tokens.device) / 20)
    return torch.bucketize(amplitudes[tokens] * gains, (amplitudes[1:] + amplitudes[:-1]) / 2)


def _beginning(x: Tensor) -> int | None:
    """The sample at which one of the notes of a window begins, to a millisecond; None where none does. f(L)."""
    frames = x[: len(x) // FRAME * FRAME].square().view(-1, FRAME)
    energy = frames.mean(-1)
    rises = ((energy[1:] > RISE * energy[:-1]) & (energy[1:] > LEAST)).nonzero()[:, 0]
    if not len(rises):
        return None
    first = int(rises[torch.randint(len(rises), ())])
    fine = frames[first : first + 2].view(-1, 16).mean(-1)
    return first * FRAME + 16 * int((fine[1:] - RISE * fine[:-1]).argmax() + 1)
