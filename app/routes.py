"""What the page's own script talks to, beside Gradio: sound while it is made, and what may be done with takes.

    POST sound/play                    something to play, as JSON -> the ids of its takes
    GET  sound/look?take=ID:COLUMNS    what has become of takes, and their spectrograms from a column on
    GET  sound/kept                    the takes that were kept
    POST sound/leave                   the page is being closed
    GET  sound/takes/ID/play.wav       one growing piece, as it is made; once whole, any part of it
    GET  sound/takes/ID/file.KIND      a download: wav, flac, mp3, json
    POST sound/takes/ID/ACTION         stop, keep, drop, rename, remove
    GET  sound/shipped/N               a clip that came with the program
    GET  sound/prompts/ID/heard.wav    a section of a recording as a model hears it

Whoever has an id may use it: ids are random, 96 bits. With logins, a login is needed too.
"""

import asyncio
import base64
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from functools import wraps
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app import shipped, sound
from app.again import SETTINGS
from app.prompts import Prompts
from app.service import Ask, Busy, Job, Service
from app.takes import Take
from sashimi.config import SamplingChoice, SamplingConfig
from sashimi.errors import UserError

PACE = 0.04  # seconds between two looks at whether there is more to stream
LEAD = 0.5  # seconds of sound before a stream begins
MARGIN = 0.9  # of the time that is left, for what a busy machine takes away
PIECE = 1 << 16  # samples sent at a time
BODY = 20_000  # bytes of JSON, at most
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """Starlette routes over a service; to be mounted in front of Gradio's."""

    def __init__(self, service: Service, prompts: Prompts) -> None:
        self.service, self.prompts, self.pictures = service, prompts, sound.Pictures()

    def all(self) -> list[Route]:
        take = "/sound/takes/{id:str}"
        return [
            Route("/sound/play", guarded(self.play), methods=["POST"]),
            Route("/sound/look", guarded(self.look), methods=["GET"]),
            Route("/sound/kept", guarded(self.kept), methods=["GET"]),
            Route("/sound/leave", guarded(self.leave), methods=["POST"]),
            Route(f"{take}/play.wav", guarded(self.stream), methods=["GET"]),
            Route(f"{take}/file.{{kind:str}}", guarded(self.download), methods=["GET"]),
            Route(f"{take}/{{action:str}}", guarded(self.act), methods=["POST"]),
            Route("/sound/shipped/{i:int}", guarded(self.shipped), methods=["GET"]),
            Route("/sound/prompts/{id:str}/heard.wav", guarded(self.heard), methods=["GET"]),
        ]

    # --- asking -------------------------------------------------------------------------------------------

    async def play(self, request: Request) -> Response:
        values = await body(request)
        job = await run_in_threadpool(self._play, values, login(request) or "")
        return JSONResponse({"takes": [take.id for take in job.takes], "seed": job.ask.seed})

    def _play(self, values: dict[str, Any], owner: str) -> Job:
        user = str(values.get("user") or "")[:64]
        if "again" in values:
            return self.service.again(self.service.takes.find(str(values["again"])), user)
        return self.service.play(asked(values, user, owner, self.service, self.prompts))

    async def leave(self, request: Request) -> Response:
        values = await body(request)
        await run_in_threadpool(self.service.leave, str(values.get("user") or ""))
        return JSONResponse({})

    # --- looking ------------------------------------------------------------------------------------------

    async def look(self, request: Request) -> Response:
        asked = [part.partition(":") for part in request.query_params.getlist("take")[:16]]
        found = [await run_in_threadpool(self._look, key, int(first or 0)) for key, _, first in asked]
        return JSONResponse(found, headers=HEADERS)

    def _look(self, key: str, first: int) -> dict[str, Any]:
        try:
            take = self.service.takes.find(key)
        except UserError as error:
            return {"id": key, "status": "gone", "error": str(error)}
        return view(take, self.service, self.pictures, first)

    async def kept(self, request: Request) -> Response:
        takes = self.service.takes.kept(login(request) or "")
        return JSONResponse([take.id for take in takes], headers=HEADERS)

    async def shipped(self, request: Request) -> Response:
        found, i = shipped.clips(), request.path_params["i"]
        if i >= len(found):
            raise UserError("there is no such clip")
        return ranged(request, await run_in_threadpool(found[i].path.read_bytes), found[i].media)

    async def heard(self, request: Request) -> Response:
        query = request.query_params

        def made() -> bytes:
            known = self.service.models.find(query.get("model", ""))
            prompt = self.prompts.find(request.path_params["id"])
            start, end = number(query, "start", 0.0), number(query, "end", prompt.seconds)
            return sound.wav(self.prompts.tokens(prompt, start, end, known), known.metadata.codec)

        return ranged(request, await run_in_threadpool(made), "audio/wav")

    # --- sound --------------------------------------------------------------------------------------------

    async def stream(self, request: Request) -> Response:
        take = self.service.takes.find(request.path_params["id"])
        if take.over:
            return ranged(
                request, await run_in_threadpool(lambda: sound.wav(take.tokens(), take.about.codec)), "audio/wav"
            )
        return StreamingResponse(self._growing(take, request), media_type="audio/wav", headers=HEADERS)

    async def _growing(self, take: Take, request: Request) -> AsyncIterator[bytes]:
        """The take from its first sample on, while it is played. Begins once it can go on without a gap."""
        job = self.service.job_of(take)
        while not take.over and not ready(take, job):
            if await request.is_disconnected():
                return
            await asyncio.sleep(PACE)
        yield sound.wav_header(take.total, take.about.rate, 2, 4)
        sent = 0
        while True:
            over, there = take.over, take.there
            if job is not None:
                job.alive()
            if there > sent:
                part = take.tokens(sent, min(there, sent + PIECE))
                sent += len(part)
                yield sound.wide(part, take.about.codec)
            elif over:
                return
            else:
                await asyncio.sleep(PACE)

    async def download(self, request: Request) -> Response:
        take, kind = self.service.takes.find(request.path_params["id"]), request.path_params["kind"]
        if kind == "json":
            data, media = (take.folder / SETTINGS).read_bytes(), "application/json"
        elif kind in sound.FORMATS:
            title = take.about.name
            data = await run_in_threadpool(lambda: sound.encoded(take.tokens(), take.about.codec, kind, title))
            media = sound.FORMATS[kind]
        else:
            raise UserError(f"there are downloads as {', '.join(sound.FORMATS)} and json")
        name = re.sub(r"[^\w .,()+-]+", "-", take.about.name).strip(" .") or "take"
        attached = f"attachment; filename*=UTF-8''{quote(name)}.{kind}"
        return Response(data, media_type=media, headers={**HEADERS, "Content-Disposition": attached})

    # --- doing --------------------------------------------------------------------------------------------

    async def act(self, request: Request) -> Response:
        take, values = self.service.takes.find(request.path_params["id"]), await body(request)
        await run_in_threadpool(self._act, take, request.path_params["action"], values)
        return JSONResponse({"id": take.id, "name": take.about.name, "kept": take.about.kept})

    def _act(self, take: Take, action: str, values: dict[str, Any]) -> None:
        match action:
            case "stop":
                job = self.service.job_of(take)
                if job is not None:
                    self.service.stop(job)
            case "keep":
                take.change(kept=True)
            case "drop":
                take.change(kept=False)
            case "rename":
                take.rename(str(values.get("name", "")))
            case "remove":
                self.service.takes.remove(take)
            case _:
                raise UserError("a take can be stopped, kept, dropped, renamed and removed")


# --- what requests ask for --------------------------------------------------------------------------------


def asked(values: dict[str, Any], user: str, owner: str, service: Service, prompts: Prompts) -> Ask:
    """JSON to something to play. Raises UserError for values that cannot be."""
    try:
        kinds = {name: type(value) for name, value in asdict(SamplingConfig()).items()}
        choice = SamplingChoice(**{n: kind(values[n]) for n, kind in kinds.items() if values.get(n) is not None})
        numbers = float(values.get("seconds", 10)), int(values.get("seed", 0)), int(values.get("takes", 1))
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"a setting is not a number ({error})") from None
    seconds, seed, takes = numbers
    model, prompt, heard, parent, at = str(values.get("model", "")), None, "", None, None
    if values.get("parent"):
        parent = service.takes.find(str(values["parent"]))
        model = model or parent.about.model
        if values.get("at") is not None:
            period = math.prod(service.models.find(model).metadata.model.pool)
            at = max(period, round(number(values, "at", 0.0) * parent.about.rate) // period * period)
    elif values.get("prompt"):
        given = values["prompt"]
        if not isinstance(given, dict):
            raise UserError("a prompt is an object of id, start and end")
        found = prompts.find(str(given.get("id", "")))
        start, end = number(given, "start", 0.0), number(given, "end", found.seconds)
        prompt, heard = prompts.tokens(found, start, end, service.models.find(model)), found.title
    sampling = choice.sampling(service.models.find(model).metadata.sampling)
    return Ask(
        user, model, seconds, sampling, seed, takes, prompt=prompt, heard=heard,
        parent=parent.id if parent else None, at=at, owner=owner,
    )  # fmt: skip


def number(values: Any, name: str, default: float) -> float:
    given = values.get(name)
    if given is None or given == "":
        return default
    try:
        found = float(given)
    except (TypeError, ValueError):
        raise UserError(f"{name} is not a number") from None
    if not -1e9 < found < 1e9:
        raise UserError(f"{name} is out of range")
    return found


def view(take: Take, service: Service, pictures: sound.Pictures, first: int) -> dict[str, Any]:
    """What the page shows of a take; a sign of life of whoever looks."""
    about, job = take.about, service.job_of(take)
    if job is not None:
        job.alive()
    total, columns = pictures.columns(take, first)
    rate = job.rate if job is not None else 0.0
    left = (take.total - take.there) / rate if rate else None
    return {
        "id": take.id, "name": about.name, "status": about.status, "kept": about.kept, "rate": about.rate,
        "model": about.model, "title": about.model_title, "prompt": about.prompt, "played": about.played,
        "steps": about.steps, "bits": about.bits, "settings": about.settings, "heard": about.heard,
        "error": about.error,
        "position": service.position(job) if job is not None and about.status == "waiting" else 0,
        "speed": rate / about.rate, "left": left, "ready": ready(take, job),
        "columns": total, "first": first, "mels": columns.shape[1] if columns.ndim == 2 else 0,
        "pixels": base64.b64encode(columns.tobytes()).decode("ascii"),
    }  # fmt: skip


def ready(take: Take, job: Job | None) -> bool:
    """Whether a stream of the take that begins now goes on to its end without waiting for the player.

    Where the machine plays slower than real time, that takes a lead: what is left must be made by the time at which
    the rest has been heard.
    """
    if take.over or job is None:
        return True
    if take.about.status == "waiting" or take.there < LEAD * take.about.rate or not job.rate:
        return False
    to_make, to_hear = (take.total - job.done) / job.rate, take.total / take.about.rate
    return to_make <= MARGIN * to_hear


# --- plumbing ---------------------------------------------------------------------------------------------


def login(request: Request) -> str | None:
    """Who is logged in, as Gradio keeps it. None without logins, and for whoever is not."""
    app = request.app
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    token = next((request.cookies[name] for name in names if name in request.cookies), None)
    return app.tokens.get(token)


def guarded(handler: Handler) -> Handler:
    """Needs a login where there are logins; answers what is the user's to mend with a sentence."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        if getattr(request.app, "auth", None) is not None and login(request) is None:
            return JSONResponse({"error": "log in first"}, status_code=401)
        if request.method == "POST" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return JSONResponse({"error": "only this app's own page may do that"}, status_code=403)
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Busy as error:
            return JSONResponse({"error": str(error)}, status_code=429)
        except (UserError, OSError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return answer


async def body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise UserError("send JSON")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > BODY:
            raise UserError("that is too much")
    try:
        values = json.loads(data or b"{}")
    except ValueError:
        raise UserError("send JSON") from None
    if not isinstance(values, dict):
        raise UserError("send a JSON object")
    return values


def ranged(request: Request, data: bytes, media: str) -> Response:
    """All of it, or the part that a Range header asks for: what seeking in a player needs."""
    headers = {**HEADERS, "Accept-Ranges": "bytes"}
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not found or not (found[1] or found[2]):
        return Response(data, media_type=media, headers=headers)
    if found[1]:
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
    else:
        first, last = max(0, len(data) - int(found[2])), len(data) - 1
    if first > last:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], status_code=206, media_type=media, headers=headers)
