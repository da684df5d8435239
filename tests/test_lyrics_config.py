"""The companion's settings: every YAML composes, what is wrong is named."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sashimi.config import build_settings
from sashimi.errors import UserError
from sashimi.lyrics.config import (
    CONFIGS,
    Data,
    Lora,
    Model,
    Training,
    TrainSettings,
    Understanding,
    read_settings,
    write_settings,
)

CHOICES = [(p.parent.name, p.stem) for p in sorted(CONFIGS.rglob("*.yaml")) if p.parent != CONFIGS]


def composed(*overrides: str) -> TrainSettings:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    return build_settings(TrainSettings, values)


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_choice_composes(group: str, option: str) -> None:
    settings = composed(f"{group}={option}")
    text = (CONFIGS / group / f"{option}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n# ")
    if group == "experiment":
        assert settings.name == option
        assert f"experiment={option}" in text


def test_the_yaml_holds_the_defaults_of_the_dataclasses() -> None:
    assert composed() == TrainSettings()
    assert {("recipe", "document"), ("recipe", "plan"), ("experiment", "understanding")} <= set(CHOICES)


def test_every_setting_is_explained() -> None:
    lines = (CONFIGS / "train.yaml").read_text(encoding="utf-8").splitlines()
    for cls in (TrainSettings, Understanding, Model, Data, Lora, Training):
        for field in fields(cls):
            assert field.name in (cls.__doc__ or "") or is_dataclass(field.default_factory), field.name
            assert any(line.strip().startswith(f"{field.name}:") for line in lines), field.name


def test_recipes_follow_their_sources() -> None:
    document = composed("recipe=document", "experiment=vagalume-en")
    t = document.training
    assert (document.model.name, document.model.quantise) == ("meta-llama/Meta-Llama-3-8B", "nf4")
    assert (t.epochs, t.lr, t.batch, t.eval_batch, t.accumulate, t.weight_decay) == (10, 3e-4, 4, 4, 8, 0.01)
    assert (document.model.dtype, t.gradient_checkpointing, t.keep, t.save_every, t.loss) == (
        "fp16", True, 2, 500, "all",
    )  # fmt: skip
    plan = composed("recipe=plan", "experiment=understanding")
    assert (plan.lora.r, plan.lora.alpha, plan.lora.dropout, plan.model.control_tokens) == (128, 256, 0.05, True)
    assert {"q_proj", "down_proj", "lm_head"} <= set(plan.lora.targets)
    assert (plan.training.epochs, plan.training.lr, plan.training.batch, plan.training.warmup) == (2, 2e-4, 24, 50)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Model(quantise="int8"), "model.quantise=int8 is not one of none, nf4"),
        (lambda: Model(name=" "), "model.name is empty"),
        (lambda: Model(dtype="half"), "model.dtype=half"),
        (lambda: Data(max_tokens=8), "data.max_tokens=8 must be at least 32"),
        (lambda: Data(songs=0), "data.songs=0"),
        (lambda: Lora(r=0), "lora.r=0"),
        (lambda: Lora(targets=["all", "q_proj"]), "all stands alone"),
        (lambda: Training(lr=3.0), "training.lr=3.0"),
        (lambda: Training(loss="some"), "training.loss=some"),
        (lambda: Training(epochs=0), "training.epochs=0"),
        (lambda: TrainSettings(task="singing"), "task=singing is not one of writing, understanding"),
        (lambda: TrainSettings(name="a/b"), "name=a/b must be the name of one folder"),
        (lambda: Understanding(tasks=["mood"]), "understanding.tasks has mood"),
    ],
)
def test_what_is_wrong_is_named(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    settings = TrainSettings(name="canção", data=Data(path=tmp_path, songs=3), lora=Lora(targets=["q_proj"]))
    write_settings(tmp_path / "settings.yaml", settings)
    assert read_settings(tmp_path / "settings.yaml") == settings
    (tmp_path / "settings.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match=r"settings\.yaml is damaged"):
        read_settings(tmp_path / "settings.yaml")
