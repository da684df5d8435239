"""Dataclasses from plain values; every YAML file composes into one."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sashimi.config import (
    DataConfig,
    EvaluateConfig,
    GenerateConfig,
    ModelConfig,
    SamplingChoice,
    SamplingConfig,
    TrainConfig,
    build_settings,
)
from sashimi.model import SaShiMi
from sashimi.settings import build, plain

CONFIGS = ROOT / "configs"
OPTIONS = [
    (group.name, path.relative_to(group).with_suffix("").as_posix())
    for group in CONFIGS.iterdir()
    if group.is_dir()
    for path in sorted(group.rglob("*.yaml"))
]


def composed(*overrides: str) -> GenerateConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("generate", list(overrides))
    return build_settings(GenerateConfig, OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_choice_composes_into_a_model(group: str, option: str) -> None:
    """For training too: every file holds only settings that there are."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        training = compose("train", [f"{group}={option}"])
    config = build_settings(TrainConfig, OmegaConf.to_container(training, resolve=True))  # type: ignore[arg-type]
    assert config.model == composed(f"{group}={option}").model
    SaShiMi(config.model)


def test_defaults_of_files_and_dataclasses_agree() -> None:
    assert composed() == GenerateConfig()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for name, cls in (("train", TrainConfig), ("evaluate", EvaluateConfig)):
            assert build_settings(cls, OmegaConf.to_container(compose(name), resolve=True)) == cls()  # type: ignore[arg-type]


def test_any_setting_of_sampling_may_be_chosen() -> None:
    assert {f.name for f in fields(SamplingChoice)} == {f.name for f in fields(SamplingConfig)}
    suggested = SamplingConfig(0.9, top_k=5, entropy=2.0)
    assert SamplingChoice().sampling(suggested) == suggested
    assert SamplingChoice(entropy=0.0, min_p=0.1).sampling(suggested) == SamplingConfig(0.9, top_k=5, min_p=0.1)
    assert suggested.telling() == {"temp": 0.9, "top_k": 5, "entropy": 2.0}
    assert SamplingConfig().telling() == {"temp": 1.0}
    with pytest.raises(ValueError, match="top_p=2"):
        SamplingChoice(top_p=2)


def test_experiments_are_the_founding_ones() -> None:
    assert composed("experiment=bigband").model.n_layers == 8
    assert composed("experiment=bigband-2block").model.n_layers == 2
    assert composed("experiment=bigband").codec.normalize == "none"
    assert composed("experiment=youtubemix").codec.normalize == "window"
    assert composed("experiment=audio/sashimi-youtubebigband") == composed("experiment=bigband")
    assert composed("experiment=audio/sashimi-youtubebigband-ablate-2-layers") == composed("experiment=bigband-2block")
    assert composed("experiment=audio/sashimi-youtubemix") == composed("experiment=youtubemix")


def test_every_file_opens_with_what_it_is() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        assert any(not line.startswith("# @") for line in comments[:2]), path


def test_several_data_sets() -> None:
    config = composed("data.also=[a,b]", "data.weights=[3,1,0.5]")
    assert config.data.also == [Path("a"), Path("b")]
    assert config.data.weights == [3.0, 1.0, 0.5]
    assert all(isinstance(weight, float) for weight in config.data.weights)
    assert build(DataConfig, plain(asdict(config.data))).weights == config.data.weights


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": [1]}, r"data.weights=\[1.0\] weighs several data sets: name the others, data.also="),
        ({"also": ["a"], "weights": [1]}, r"data.weights=\[1.0\]: give 2, one for data.dir"),
        ({"also": ["a"], "weights": [1, 2, 3]}, "give 2"),
        ({"also": ["a"], "weights": [1, 0]}, r"data.weights=\[1.0,0.0\] must all be above 0"),
        ({"also": ["a"], "weights": [1, float("nan")]}, "must all be above 0"),
        ({"also": "a"}, "also=a must be a list"),
        ({"also": ["a"], "weights": [1, "b"]}, r"weights\[1\]=b must be a number"),
    ],
)
def test_bad_mixes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(DataConfig, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer": {"kind": "s5"}}, "model.layer.kind=s5 is not one of s4, s4d"),
        ({"layer": {"backend": "cuda"}}, "backend=cuda is not one of auto, recurrence"),
        ({"layer": {"kind": "s4", "init": "inv"}}, "model.layer.init=inv"),
        ({"layer": {"kind": "s4", "discretization": "zoh"}}, "discretization=zoh"),
        ({"layer": {"dt_min": 0.2}}, "dt_min"),
        ({"layer": {"n_ssm": 7}}, "n_ssm=7 must divide"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(ModelConfig, values)
