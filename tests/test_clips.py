"""Clips on disk, through the function that generate.py calls."""

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import tiny_model

from sashimi import audio, checkpoint, generation
from sashimi.clips import generate_files
from sashimi.codec import Codec
from sashimi.config import CodecConfig, GenerateConfig, SamplingConfig

Recording = Callable[..., Path]


def settings(model: Path, out: Path, **changes: object) -> GenerateConfig:
    given = {"checkpoint_path": model, "save_dir": out, "n_samples": 3, "l_sample": 48, **changes}
    return GenerateConfig(**given)  # type: ignore[arg-type]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sounds(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.wav")}


def by_clip(folder: Path) -> dict[int, bytes]:
    return {int(row["clip"]): (folder / row["file"]).read_bytes() for row in table(folder)}


def test_a_folder_of_clips(saved_model: Path, tmp_path: Path) -> None:
    folder = generate_files(settings(saved_model, tmp_path / "out", n_reps=2, top_p=0.9, temp=0.8), "bigband")
    rows = table(folder)
    assert [row["file"] for row in rows] == sorted(sounds(folder))
    assert rows[0]["file"].startswith("sashimi_unconditional_len0.00s_temp0.8_topp0.9_seed0_gen1_clip")
    likelihoods = [float(row["log_likelihood"]) for row in rows]
    assert likelihoods == sorted(likelihoods)
    assert sorted(int(row["clip"]) for row in rows) == list(range(6))
    assert {row["samples"] for row in rows} == {"48"}
    assert float(rows[0]["bits_per_byte"]) == pytest.approx(-likelihoods[0] / 48 / np.log(2))
    info = sf.info(folder / rows[0]["file"])
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (48, 16000, 1, "PCM_16")
    saved = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    assert [clip["file"] for clip in saved["clips"]] == [row["file"] for row in rows]
    assert saved["checkpoint"]["model"]["d_model"] == 8
    assert saved["settings"]["seed"] == 0
    others = {path.name for path in folder.iterdir()} - set(sounds(folder))
    assert others == {"samples.csv", "metadata.json"}


def test_same_seed_and_settings_same_bytes_whatever_the_batch(saved_model: Path, tmp_path: Path) -> None:
    first = generate_files(settings(saved_model, tmp_path / "a"))
    for name, n_batch in (("b", 1), ("c", 2)):
        again = generate_files(settings(saved_model, tmp_path / name, n_batch=n_batch))
        assert sounds(again) == sounds(first)
        assert (again / "samples.csv").read_bytes() == (first / "samples.csv").read_bytes()
    other = generate_files(settings(saved_model, tmp_path / "d", seed=1))
    assert not set(by_clip(other).values()) & set(by_clip(first).values())


def test_a_model_is_played_as_its_checkpoint_says_unless_asked(saved_model: Path, tmp_path: Path) -> None:
    plain = by_clip(generate_files(settings(saved_model, tmp_path / "plain", temp=None)))
    model = checkpoint.load(saved_model)
    model.metadata.sampling = SamplingConfig(temp=0.7, entropy=3.0)
    checkpoint.save(saved_model, model, model.metadata)
    suggested = generate_files(settings(saved_model, tmp_path / "suggested", temp=None))
    assert {(row["temp"], row["entropy"]) for row in table(suggested)} == {("0.7", "3.0")}
    assert "_temp0.7_entropy3_" in table(suggested)[0]["file"]
    partly = generate_files(settings(saved_model, tmp_path / "partly", temp=1.0))
    assert {(row["temp"], row["entropy"]) for row in table(partly)} == {("1.0", "3.0")}
    asked = by_clip(generate_files(settings(saved_model, tmp_path / "asked", temp=1.0, entropy=0.0)))
    assert asked == plain
    assert not set(by_clip(suggested).values()) & set(plain.values())
    model.metadata.sampling = SamplingConfig()
    checkpoint.save(saved_model, model, model.metadata)
    again = GenerateConfig(again=suggested, save_dir=tmp_path / "again", checkpoint_path=saved_model)
    with pytest.raises(ValueError, match="not the checkpoint"):
        generate_files(again)


def test_free_clips_beside_continuations(saved_model: Path, tmp_path: Path, recording: Recording) -> None:
    section = {"prompt": recording(rate=16000), "prompt_end": 0.1, "l_sample": 1700}
    folder = generate_files(settings(saved_model, tmp_path / "a", n_samples=1, n_free=2, **section))
    rows = sorted(table(folder), key=lambda row: int(row["clip"]))
    kinds = [("continuation_len0.11s", "1600"), ("unconditional_len0.01s", "0"), ("unconditional_len0.01s", "0")]
    assert [(row["file"].split("_temp")[0].partition("_")[2], row["prompt_samples"]) for row in rows] == kinds
    assert {row["samples"] for row in rows} == {"100"}
    again = generate_files(GenerateConfig(again=folder, clips=[1], save_dir=tmp_path / "b"))
    assert by_clip(again) == {1: by_clip(folder)[1]}


def test_any_clip_alone_is_made_again(saved_model: Path, tmp_path: Path, recording: Recording) -> None:
    song = recording("canção (live) a=b, c.mp3", seconds=1.0)
    section = {"prompt": song, "prompt_start": 0.25, "prompt_end": 0.35, "l_sample": 1700}
    prompted = settings(saved_model, tmp_path / "a", n_reps=2, format="flac", **section)
    first = generate_files(prompted)
    for source in (first, first / "metadata.json"):
        config = GenerateConfig(again=source, clips=[4], save_dir=tmp_path / f"b{source.name}")
        config.n_samples = 5  # read from the command line before the file: ignored
        again = generate_files(config)
        assert by_clip(again) == {4: by_clip(first)[4]}
    moved = saved_model.rename(saved_model.with_name("moved.safetensors"))
    with pytest.raises(FileNotFoundError, match="tiny.safetensors"):
        generate_files(GenerateConfig(again=first, save_dir=tmp_path / "c"))
    again = generate_files(GenerateConfig(again=first, save_dir=tmp_path / "c", checkpoint_path=moved))
    assert by_clip(again) == by_clip(first)
    recording(song.name, seconds=1.0, level=0.3)
    with pytest.raises(ValueError, match="has changed"):
        generate_files(GenerateConfig(again=first, save_dir=tmp_path / "d", checkpoint_path=moved))
    other = tiny_model(seed=1)
    checkpoint.save(moved, other, other.metadata)
    with pytest.raises(ValueError, match="not the checkpoint"):
        generate_files(GenerateConfig(again=first, save_dir=tmp_path / "d", checkpoint_path=moved))


def test_continuation_has_no_seam_but_the_models(saved_model: Path, tmp_path: Path, recording: Recording) -> None:
    """The prompt comes out as the model heard it, at its own level, and the clip goes on from there."""
    song = recording(seconds=1.0)
    asked = {"prompt": song, "prompt_end": 0.5, "l_sample": 9000, "n_samples": 1}
    folder = generate_files(settings(saved_model, tmp_path / "with", **asked))
    (row,) = table(folder)
    assert "continuation" in row["file"]
    codec = Codec(CodecConfig())
    heard = codec.encode(audio.read(song, 16000, 0, 0.5))
    clip, _ = sf.read(folder / row["file"], dtype="float32")
    assert len(clip) == 9000
    assert np.array_equal(codec.encode(clip[:8000]), heard)
    without = generate_files(settings(saved_model, tmp_path / "without", include_prompt=False, **asked))
    played, _ = sf.read(without / table(without)[0]["file"], dtype="float32")
    assert np.array_equal(played, clip[8000:])


def test_plots_and_flac(saved_model: Path, tmp_path: Path, recording: Recording) -> None:
    asked = {"prompt": recording(seconds=0.1, rate=16000), "l_sample": 3000, "n_samples": 1}
    folder = generate_files(settings(saved_model, tmp_path / "out", plots=True, format="flac", **asked))
    (row,) = table(folder)
    assert row["file"].endswith(".flac")
    assert (folder / row["file"]).with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_keep_middle(saved_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = generate_files(settings(saved_model, tmp_path / "all", n_samples=20, l_sample=16))
    assert "warning" not in capsys.readouterr().out
    middle = generate_files(settings(saved_model, tmp_path / "middle", n_samples=20, l_sample=16, keep="middle"))
    assert "9 dropped" in capsys.readouterr().out
    assert [row["clip"] for row in table(middle)] == [row["clip"] for row in table(whole)][8:19]
    assert len(sounds(middle)) == 11
    generate_files(settings(saved_model, tmp_path / "few", keep="middle"))
    assert "use 20 or more" in capsys.readouterr().out


def test_stopping_keeps_what_there_is(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second batch: the first is whole, the second marked partial, the tables agree."""
    monkeypatch.setattr(generation, "BLOCK_MAX", 16)
    run = generation.generate

    def interrupted(*arguments: object, **options: object) -> Iterator[generation.Block]:
        for i, block in enumerate(run(*arguments, **options)):  # type: ignore[arg-type]
            if i == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield block

    monkeypatch.setattr(generation, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_files(settings(saved_model, tmp_path / "out", n_samples=6, n_batch=2))
    rows = {int(row["clip"]): row for row in table(tmp_path / "out")}
    assert set(rows) == {0, 1, 2, 3}
    for clip, row in rows.items():
        assert row["complete"] == str(clip < 2)
        assert ("partial" in row["file"]) == (clip >= 2)
        assert sf.info(tmp_path / "out" / row["file"]).frames == int(row["samples"]) == (48 if clip < 2 else 32)
    assert len(sounds(tmp_path / "out")) == 4


def test_what_was_played_before_an_error_stays(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "BLOCK_MAX", 16)
    run = generation.generate

    def failing(*arguments: object, **options: object) -> Iterator[generation.Block]:
        for i, block in enumerate(run(*arguments, **options)):  # type: ignore[arg-type]
            if i == 2:
                raise ValueError("its weights are damaged")
            yield block

    monkeypatch.setattr(generation, "generate", failing)
    with pytest.raises(ValueError, match="weights are damaged"):
        generate_files(settings(saved_model, tmp_path / "out"))
    assert [(row["complete"], row["samples"]) for row in table(tmp_path / "out")] == [("False", "32")] * 3
    assert all("_partial" in name for name in sounds(tmp_path / "out"))


def test_clips_are_on_disk_while_they_are_played(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a name that says partial, and readable."""
    monkeypatch.setattr(generation, "BLOCK_MAX", 16)
    monkeypatch.setattr("sashimi.clips.FLUSH_SECONDS", 0)
    run, seen = generation.generate, []

    def watched(*arguments: object, **options: object) -> Iterator[generation.Block]:
        for block in run(*arguments, **options):  # type: ignore[arg-type]
            yield block
            seen.append({path.name.split("_")[-1]: sf.info(path).frames for path in (tmp_path / "out").glob("*.wav")})

    monkeypatch.setattr(generation, "generate", watched)
    generate_files(settings(saved_model, tmp_path / "out", n_samples=1))
    assert seen == [{"partial.wav": 16}, {"partial.wav": 32}, {"clip0000.wav": 48}]


def test_a_folder_of_other_settings_is_not_overwritten(saved_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = by_clip(generate_files(settings(saved_model, out)))
    assert by_clip(generate_files(settings(saved_model, out))) == first, "the same settings again: the same clips"
    with pytest.raises(ValueError, match="overwrite=true"):
        generate_files(settings(saved_model, out, seed=1))
    assert by_clip(out) == first
    second = generate_files(settings(saved_model, out, seed=1, overwrite=True))
    assert len(sounds(second)) == 3, "nothing of the first is left"


def test_other_peoples_files_stay(saved_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.wav").write_bytes(b"mine")
    generate_files(settings(saved_model, tmp_path / "out"))
    generate_files(settings(saved_model, tmp_path / "out", seed=1, overwrite=True))
    assert (tmp_path / "out" / "mine.wav").read_bytes() == b"mine"


def test_folders_that_cannot_be_written(saved_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(ValueError, match="save_dir=.* cannot be written"):
            generate_files(settings(saved_model, folder))


def test_again_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes a folder of clips"):
        generate_files(GenerateConfig(again=tmp_path))
    (tmp_path / "metadata.json").write_text("[]")
    with pytest.raises(ValueError, match="not a metadata.json"):
        generate_files(GenerateConfig(again=tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_samples": 0}, "n_samples=0"),
        ({"n_samples": -3}, "n_samples=-3"),
        ({"n_batch": 0}, "n_batch=0"),
        ({"l_sample": 0}, "l_sample=0"),
        ({"temp": -0.1}, "temp=-0.1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed"),
        ({"split": "dev"}, "train, val, test"),
        ({"format": "mp3"}, "wav, flac"),
        ({"keep": "best"}, "all, middle"),
        ({"clips": [3]}, "0 to 2"),
        ({"prompt_start": 2.0, "prompt_end": 1.0, "prompt": Path("x")}, "after prompt_start"),
        ({"prompt": Path("x"), "l_prefix": 5}, "use one"),
        ({"l_prefix": 5, "load_data": False}, "load_data=true"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(Path("model"), Path("out"), **changes)
