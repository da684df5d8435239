"""The benchmarks run and report what they should. No figure of speed is tested."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_model

from benchmarks import damage, generation, prefill, report, roofline, training
from benchmarks.published import published_player
from sashimi.engines.native import NativeEngine
from sashimi.errors import UserError
from sashimi.metrics import Track
from sashimi.survival import JUDGED, band_of

TINY = ["--blocks", "1", "--kinds", "s4d", "--d-model", "8", "--seconds", "0.01", "--repeats", "1"]


def test_generation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = generation.main([*TINY, "--batches", "2", "--threads", "2", "--json", str(tmp_path / "report.json")])
    players = [(row.player.engine, row.player.precision, row.player.threads) for row in found]
    assert players == [("eager", "fp32", 1), ("native", "fp32", 2), ("native", "bf16", 2)]
    for row in found:
        assert min(value for name, value in vars(row).items() if name != "player") > 0
        assert row.samples == 2 * row.steps
        assert row.x_real_time == pytest.approx(row.samples / 16000)
        assert row.share == pytest.approx(row.samples / row.roofline)
    assert found[0].x_eager == 1
    assert found[2].step_bytes < found[1].step_bytes

    saved = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(saved) == {"machine", "date", "rows"}
    assert [row["share"] for row in saved["rows"]] == [row.share for row in found]
    printed = capsys.readouterr().out
    assert "Playing S4D, 1 blocks, width 8" in printed
    assert saved["machine"] in printed
    assert saved["date"] in printed
    assert generation.table("", found).row_count == 3


def test_prefill(tmp_path: Path) -> None:
    found = prefill.main([*TINY, "--json", str(tmp_path / "report.json")])
    assert [row.prompt.engine for row in found] == ["eager", "native"]
    for row in found:
        assert row.x_real_time == pytest.approx(0.01 / row.taken)
        assert row.peak > 0
        assert 0 <= row.difference < 1e-4
    assert len(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]) == 2
    assert prefill.table("", found).row_count == 2


@pytest.mark.parametrize("carry", [[], ["--carry"]])
def test_training(carry: list[str], tmp_path: Path) -> None:
    tiny = [*TINY[:6], "--repeats", "1", "--json", str(tmp_path / "report.json")]
    shapes = ["--shapes", "64x2,32x1", "--backends", "recurrence,two_level", "--threads", "1"]
    found = training.main([*tiny, *shapes, *carry])
    assert all(row.run.carry == bool(carry) for row in found)
    assert [(row.run.window, row.run.batch, row.run.backend) for row in found] == [
        (64, 2, "recurrence"), (64, 2, "two_level"), (32, 1, "recurrence"), (32, 1, "two_level"),
    ]  # fmt: skip
    for first, row in zip(found[::2] * 2, [*found[::2], *found[1::2]], strict=True):
        assert row.peak > 0
        assert row.x_preferred == pytest.approx(first.samples / row.samples)
    assert len(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]) == 4
    assert training.table("", found).row_count == 4


def test_the_difference_is_relative_to_each_part() -> None:
    model = tiny_model("s4d")
    _, state = NativeEngine(model).score(model.start(1), np.full((1, 32), 200, np.uint8))
    parts = {name: part.clone() for name, part in model.unpack(state).items()}
    part = parts["ssm.2.0"]
    part[0, 0, 0] += 0.25 * part.abs().max()
    other = model.pack(parts, state.position, state.pending)
    assert prefill.difference(model, other, state) == pytest.approx(0.25)
    assert prefill.difference(model, state, state) == 0


def test_what_a_step_touches(kind: str) -> None:
    model = tiny_model(kind)
    tensors, config = model.export(), model.config
    parts = roofline.sections(model, False, 1, 1)
    unread = {"embedding"} | {name for name in tensors if name.endswith(".b") and kind == "s4d"}
    everything = sum(4 * t.numel() for name, t in tensors.items() if name not in unread)
    assert sum(part.weights for part in parts) == everything + 4 * config.d_model  # and one row of the embedding
    widths = [8, 16, 32]
    assert [part.states for part in parts] == [4 * config.n_layers * H * config.d_state for H in widths]
    assert [part.period for part in parts] == [1, 4, 16]

    halves = roofline.sections(model, True, 1, 1)
    dense = sum(t.numel() for name, t in tensors.items() if name.endswith("weight") and t.ndim == 2)
    assert everything - sum(part.weights for part in halves) == 2 * dense - 4 * config.d_model

    # Streams share the weights of a step, but not across threads that each play their own.
    one, both = (roofline.step_bytes(roofline.sections(model, False, 4, t), 4, t) for t in (1, 2))
    states = sum(2 * 4 * part.states / part.period for part in parts)
    rows = 4 * 4 * config.d_model
    assert both - states - rows == pytest.approx(2 * (one - states - rows))


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 2), (2, 2)])
def test_bandwidth_of_anything(batch: int, threads: int) -> None:
    parts = [roofline.Section(10_000, 3_000, 1), roofline.Section(50_000, 0, 4)]
    assert roofline.bandwidth(parts, batch, threads, 0.001) > 0


def test_a_process_that_ends_is_the_error() -> None:
    nonsense = prefill.Prompt("nonsense", 1, 8, "native", 0.01)
    with pytest.raises(UserError, match="kind='nonsense'.*ended with status 2"):
        report.interleaved("benchmarks.prefill", [nonsense], 1)


def test_a_reference_must_be_a_clone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clone"):
        published_player(tmp_path, tiny_model(), 1)


@pytest.mark.parametrize("setting", ["--blocks=0", "--kinds=s5", "--batches=1,x", "--seconds=-1"])
def test_settings_that_cannot_be(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generation.main([setting])
    assert setting.split("=")[0] in capsys.readouterr().err


def test_the_table_of_damages(damaged: dict[str, Track]) -> None:
    """A row a damage, bold where a feature sees it."""
    shown = {name: [damaged[name]] for name in ("none", "coloured noise", "silence")}
    header, _, none, coloured, silence = damage.table(shown, band_of([damaged["none"]]))
    assert header.count("|") == none.count("|") == len(JUDGED) + 4
    assert none.endswith("| 0% | - |")
    noisiness = coloured.split("|")[2 + [f.name for f in JUDGED].index("noisiness")]
    assert noisiness.strip().startswith("**-2.")
    assert silence.split("|")[2:5] == [" **-120** (100%) ", " - ", " - "]
    assert silence.endswith("| 100% | silence |")
