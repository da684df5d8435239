"""A take's settings file, from which `generate.py again=` makes the same take."""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from sashimi import audio
from sashimi.clips import CHECKPOINT_SETTINGS, OUTPUT_SETTINGS
from sashimi.codec import Tokens
from sashimi.config import GenerateConfig, SamplingConfig
from sashimi.files import finished
from sashimi.settings import plain

if TYPE_CHECKING:
    from app.models import Loaded
    from app.takes import Take

PROMPT, SETTINGS = "prompt.flac", "again.json"


def write_again(take: "Take", loaded: "Loaded", prompt: Tokens) -> None:
    """again.json, a metadata.json as sashimi.clips writes it, and the prompt as a file that encodes to its tokens."""
    about, path = take.about, take.folder / PROMPT
    if len(prompt):
        audio.write(path, take.codec.decode(prompt), about.rate)
    number, seed = about.settings["number"], about.settings["seed"]
    sampling = SamplingConfig(**{k: v for k, v in about.settings.items() if k not in ("seed", "number")})
    config = GenerateConfig(
        **asdict(sampling), seed=seed, checkpoint_path=loaded.known.path, n_samples=number + 1, clips=[number],
        prompt=path if len(prompt) else None, l_sample=about.prompt + about.steps, load_data=False,
        engine=loaded.engine_config,
    )  # fmt: skip
    left_out = OUTPUT_SETTINGS | CHECKPOINT_SETTINGS
    saved = {
        "settings": {k: v for k, v in plain(asdict(config)).items() if k not in left_out},
        "checkpoint": {"path": str(loaded.known.path.resolve()), "sha256": loaded.sha256},
        "prompts_sha256": [hashlib.sha256(prompt.tobytes()).hexdigest()] * (number + 1),
    }
    with finished(take.folder / SETTINGS) as partial:
        partial.write_text(json.dumps(saved, indent=1, ensure_ascii=False), encoding="utf-8")
