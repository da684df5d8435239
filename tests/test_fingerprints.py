"""The same music again, and a steady sound that is like nothing."""

import numpy as np
import pytest
from conftest import notes

from sashimi import fingerprints
from sashimi.fingerprints import Fingerprinter, Match

RATE = 16000


@pytest.mark.parametrize("shift", [0, 1, 799, 800, 12345])
def test_codes_of_a_shifted_copy(shift: int) -> None:
    music = notes(30, 10)

    def codes(waveform: np.ndarray, block: int) -> fingerprints.Codes:
        fingerprinter = Fingerprinter(RATE)
        for at in range(0, len(waveform), block):
            fingerprinter.add(waveform[at : at + block])
        return fingerprinter.codes()

    one, other = codes(music, 160000), codes(0.2 * music[shift:], 777)
    assert len(one) == 300 - fingerprints.SPAN + 1
    found = fingerprints.matches({"one": one, "other": other, "another": codes(notes(30, 11), 160000)})
    assert found
    assert {(match.a, match.b) for match in found} == {("one", "other")}
    best = max(found, key=lambda match: match.length)
    assert best.at_a - best.at_b in (shift // 1600, shift // 1600 + 1)
    assert best.length > 0.8 * len(other)
    assert np.array_equal(codes(music, 777), one), "blocks make no difference"


def test_a_steady_sound_is_like_nothing() -> None:
    fingerprinter = Fingerprinter(RATE)
    fingerprinter.add((0.5 * np.sin(np.arange(20 * RATE) * 0.2)).astype(np.float32))
    fingerprinter.add(np.zeros(20 * RATE, np.float32))
    codes = fingerprinter.codes()
    assert fingerprints.matches({"a": codes, "b": codes.copy()}) == []
    assert fingerprints.matches({}) == fingerprints.matches({"a": np.zeros((0, 2), np.uint32)}) == []
    assert Match("a", 0, "b", 0, 50) != Match("a", 0, "b", 1, 50)
