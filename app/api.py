"""What programs call: one function that plays a take. docs/app.md shows how."""

import json
from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.events import api

from app import sound
from app.again import SETTINGS
from app.errors import in_words
from app.prompts import Prompts
from app.service import Ask, Service
from sashimi.config import SamplingChoice
from sashimi.errors import UserError

WAIT = 2.0  # seconds between two looks at a take


def add_api(service: Service, prompts: Prompts) -> None:
    @in_words
    def generate(
        request: gr.Request,
        model: str = "",
        seconds: float = 10,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        floor: float | None = None,
        entropy: float | None = None,
        seed: int = 0,
        prompt: gr.FileData | None = None,
        start: float = 0.0,
        end: float = 10.0,
    ) -> dict[str, Any]:
        """Play a take. model: a title from /models, "" for the first; prompt: an uploaded recording, of which the
        seconds start to end are continued. How samples are drawn is the model's choice where None. Returns when the
        take is whole: where its sound is on this server, as wav, flac and mp3, its settings and its bits per sample."""
        known = next((k for k in service.models.known() if model in ("", k.title, k.id)), None)
        if known is None:
            raise UserError(f"there is no model {model!r}; /models lists them")
        tokens, heard = None, ""
        if prompt is not None:
            found = prompts.bring(str(prompt["path"] if isinstance(prompt, dict) else prompt.path))
            tokens, heard = prompts.tokens(found, start, end, known), found.title
        choice = SamplingChoice(temperature, top_k, top_p, min_p, floor, entropy)
        sampling = choice.sampling(known.metadata.sampling)
        user, owner = request.session_hash or "", request.username or ""
        job = service.play(Ask(user, known.id, seconds, sampling, seed, prompt=tokens, heard=heard, owner=owner))
        while not job.over.wait(WAIT):
            job.alive()
        take = job.takes[0]
        if job.error:
            raise UserError(job.error)
        saved = json.loads((take.folder / SETTINGS).read_text(encoding="utf-8"))["settings"]
        chosen = {key: saved[key] for key in ("seed", *asdict(sampling), "l_sample")}
        files = {kind: f"sound/takes/{take.id}/file.{kind}" for kind in (*sound.FORMATS, "json")}
        about = {"take": take.id, "model": known.title, "bits_per_sample": take.about.bits, "settings": chosen}
        return {**about, "files": files}

    def models() -> list[str]:
        """The models that there are."""
        return [known.title for known in service.models.known()]

    api(generate, api_name="generate", concurrency_limit=None)
    api(models, api_name="models")
