"""The one place where takes are played: a bounded queue, a fixed number of players, and who may have how much.

Knows nothing of pages. A job is 1 to 4 takes of the same settings, played as one batch.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from app.again import write_again
from app.models import Loaded, Models
from app.takes import BINS, STATE_SECONDS, About, Take, Takes, new_id
from sashimi.codec import Tokens
from sashimi.config import SamplingConfig
from sashimi.errors import UserError
from sashimi.generation import UNIT, in_units
from sashimi.model import State

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 1.0, 60.0  # seconds to be played
MOST_TAKES = 4  # at once
LONGEST_HEARD = 10 * 60.0  # seconds that a take may have, with what came before: takes are continued and continued
FIRST_SECONDS = 0.2  # of sound in the first block: it is heard soon
BLOCK_SECONDS = 0.25  # of the clock, between two looks at whether to stop
HEARD_SECONDS = 1  # of a prompt, between two looks
ABANDONED = 75.0  # seconds without a sign of life of whoever asked; hidden pages show one a minute


class Busy(UserError):
    """The queue is full, or the user has enough in it."""


@dataclass(frozen=True)
class Ask:
    """What is to be played.

    user     who is served in turn: a session;  owner: who may list the takes: a login's name or ""
    model    id of a checkpoint
    seconds  to be played after what is heard
    prompt   uint8(L) tokens to go on from, L a multiple of the model's period; heard says for people what it is
    parent   a take to go on from after `at` samples, in place of a prompt
    numbers  which clips of the seed: a clip is (seed, number)
    """

    user: str
    model: str
    seconds: float
    sampling: SamplingConfig
    seed: int
    takes: int = 1
    numbers: tuple[int, ...] | None = None
    prompt: Tokens | None = None
    heard: str = ""
    parent: str | None = None
    at: int | None = None
    owner: str = ""

    def __post_init__(self) -> None:
        if not SHORTEST <= self.seconds <= LONGEST:
            raise UserError(f"{self.seconds:g} seconds: choose from {SHORTEST:g} to {LONGEST:g}")
        if not 1 <= self.takes <= MOST_TAKES:
            raise UserError(f"{self.takes} takes: choose from 1 to {MOST_TAKES}")
        if not 0 <= self.seed < 2**53:
            raise UserError(f"the seed {self.seed} must be at least 0 and below 2^53")


@dataclass
class Job:
    """rate: steps/s at which its takes are played; done: samples of each, heard or played;
    seen: when whoever asked was last heard of."""

    id: str
    ask: Ask
    takes: list[Take]
    prompt: Tokens
    state: tuple[int, State] | None  # saved after so many samples of the prompt
    error: str = ""
    rate: float = 0.0
    done: int = 0
    seen: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def alive(self) -> None:
        self.seen = time.monotonic()


class Service:
    """Plays what is asked for. `workers` jobs at once, `queue` more waiting; `per_user` of both for one user.

    Who has been served longest ago is next; jobs of one user in their order.
    """

    def __init__(self, models: Models, takes: Takes, workers: int = 2, queue: int = 24, per_user: int = 4) -> None:
        self.models, self.takes = models, takes
        self.workers, self.queue, self.per_user = workers, queue, per_user
        self.waiting: list[Job] = []
        self.playing: list[Job] = []
        self.by_take: dict[str, Job] = {}
        self.served: dict[str, float] = {}
        self.closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"player {i}") for i in range(workers)]
        for thread in self._threads:
            thread.start()

    # --- asking -------------------------------------------------------------------------------------------

    def play(self, ask: Ask) -> Job:
        """Put a job in the queue. Raises Busy, and UserError for what cannot be played."""
        self._check_room(ask.user)  # before anything is read or written
        self.takes.check_room()
        known = self.models.find(ask.model)
        prompt, state, heard = self._beginning(ask)
        bin_ = known.rate // BINS
        steps = max(1, round(ask.seconds * known.rate / bin_)) * bin_
        if len(prompt) + steps > LONGEST_HEARD * known.rate:
            raise UserError(f"a take cannot grow beyond {LONGEST_HEARD / 60:g} minutes; fork it from an earlier second")
        numbers = ask.numbers or tuple(range(ask.takes))
        takes = []
        for number in numbers:
            settings = {"seed": ask.seed, "number": number, **asdict(ask.sampling)}
            name = f"{heard or 'Improvisation'}, seed {ask.seed}" + (f", no. {number + 1}" if number else "")
            takes.append(
                About(
                    new_id(), name, known.id, known.title, "", known.metadata.codec, len(prompt), steps, heard,
                    settings, ask.owner, ask.parent,
                )
            )  # fmt: skip
        job = Job(new_id(), ask, [self.takes.new(about, prompt, ask.user) for about in takes], prompt, state)
        with self._changed:
            try:
                self._check_room(ask.user)
            except Busy:
                for take in job.takes:
                    take.change(status="stopped")
                    self.takes.remove(take)
                raise
            self.waiting.append(job)
            self.by_take.update((take.id, job) for take in job.takes)
            self._changed.notify()
        return job

    def again(self, take: Take, user: str) -> Job:
        """The same take once more, from what it says of itself: sample for sample the same."""
        about = take.about
        sampling = {k: v for k, v in about.settings.items() if k not in ("seed", "number")}
        return self.play(
            Ask(
                user, about.model, about.steps / about.rate, SamplingConfig(**sampling), about.settings["seed"],
                numbers=(about.settings["number"],), prompt=take.tokens(0, about.prompt), heard=about.heard,
                owner=about.user,
            )
        )  # fmt: skip

    def _check_room(self, user: str) -> None:
        mine = sum(job.ask.user == user for job in (*self.waiting, *self.playing))
        if mine >= self.per_user:
            raise Busy(f"you have {mine} plays under way or waiting already; stop one, or wait until one is done")
        if len(self.waiting) >= self.queue:
            raise Busy(f"the queue is full ({self.queue} are waiting); try again in a minute")

    def _beginning(self, ask: Ask) -> tuple[Tokens, tuple[int, State] | None, str]:
        """What is heard before the first step, a saved state on the way there, and a word for people."""
        if ask.parent is None:
            return np.zeros(0, np.uint8) if ask.prompt is None else ask.prompt, None, ask.heard
        parent, known = self.takes.find(ask.parent), self.models.find(ask.model)
        at = parent.there if ask.at is None else ask.at
        if not 0 < at <= parent.there:
            raise UserError(f"the take has {parent.there / parent.about.rate:.1f} s so far; fork it within them")
        tokens = parent.tokens(0, at)
        heard = f"{parent.about.name} from {at / parent.about.rate:g} s"
        if known.id == parent.about.model:
            return tokens, parent.state_before(at), heard
        if known.rate != parent.about.rate:
            raise UserError(f"{known.title} plays at another sample rate than this take")
        tokens = self.models.load(ask.model).codec.encode(parent.codec.decode(tokens))
        return tokens, None, heard

    # --- looking and stopping -----------------------------------------------------------------------------

    def job_of(self, take: Take) -> Job | None:
        """The job that a take is waiting or being played in."""
        return self.by_take.get(take.id)

    def position(self, job: Job) -> int:
        """How many jobs are to be started before this one; 0 too for one that was."""
        with self._changed:
            waiting, served, order = list(self.waiting), dict(self.served), 0
            while job in waiting:
                first = _next(waiting, served)
                if first is job:
                    return order
                waiting.remove(first)
                served[first.ask.user] = time.monotonic() + order
                order += 1
        return 0

    def stop(self, job: Job) -> None:
        """What was played stays."""
        job.stop.set()
        with self._changed:
            if job in self.waiting:
                self.waiting.remove(job)
                self._finish(job, "stopped")

    def leave(self, user: str) -> None:
        """Stop all that a user has: the page was closed."""
        for job in [job for job in (*self.waiting, *self.playing) if job.ask.user == user]:
            self.stop(job)

    def close(self) -> None:
        self.closed = True
        for job in [*self.waiting, *self.playing]:
            self.stop(job)
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    # --- playing ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self.closed:
            with self._changed:
                job = None
                for idle in [job for job in self.waiting if _abandoned(job)]:
                    self.waiting.remove(idle)
                    self._finish(idle, "stopped")
                if self.waiting:
                    job = _next(self.waiting, self.served)
                    self.waiting.remove(job)
                    self.playing.append(job)
                    self.served[job.ask.user] = time.monotonic()
                else:
                    self._changed.wait(timeout=1.0)
            if job is not None:
                self._do(job)

    def _do(self, job: Job) -> None:
        status = "failed"
        try:
            status = self._play(job, self.models.load(job.ask.model))
        except (UserError, OSError) as error:
            job.error = str(error)
        except MemoryError:
            job.error = "there is not enough memory for this; ask for fewer takes at once"
        except Exception:
            log.exception("a job failed")
            job.error = "the program failed at this, and has written the reason to its log; please report it"
        finally:
            with self._changed:
                self.playing.remove(job)
                self._finish(job, status)
            try:
                self.takes.sweep()
            except OSError:
                log.exception("takes could not be cleared away")

    def _finish(self, job: Job, status: str) -> None:
        for take in job.takes:
            self.by_take.pop(take.id, None)
            try:
                take.change(status=status, error=job.error)
            except OSError:  # the disk is full; what is in memory is right
                log.exception("take.json could not be written")
        if len(self.served) > 1000:
            self.served = dict(sorted(self.served.items(), key=lambda item: -item[1])[:500])
        job.over.set()

    def _play(self, job: Job, loaded: Loaded) -> str:
        """Play a job's takes to their end, or until it is stopped. Returns their status."""
        engine, rate = loaded.engine, loaded.known.rate
        for take in job.takes:
            take.change(status="playing", model_sha256=loaded.sha256)
            write_again(take, loaded, job.prompt)
        state = self._hear(job, loaded)
        if state is None:
            return "stopped"
        state = State.concat([state] * len(job.takes))
        for take in job.takes:
            take.save_state(state.select([0]))
        keys = [(job.ask.seed, take.about.settings["number"]) for take in job.takes]
        steps, bin_, apart = job.takes[0].about.steps, rate // BINS, STATE_SECONDS * rate
        played, sums = 0, [0] * len(keys)
        n = round(FIRST_SECONDS * BINS) * bin_
        while played < steps:
            if job.stop.is_set() or _abandoned(job):
                self._save(job, state)
                return "stopped"
            n = min(n, steps - played, apart - (len(job.prompt) + played) % apart)
            n = max(bin_, n // bin_ * bin_)
            began = time.perf_counter()
            tokens, logp, state = engine.run(state, n, job.ask.sampling, keys)
            pace = n / (time.perf_counter() - began)
            job.rate = 0.8 * job.rate + 0.2 * pace if played else pace
            sums = [total + whole for total, whole in zip(sums, in_units(logp).sum(axis=1).tolist(), strict=True)]
            for take, row, chances, total in zip(job.takes, tokens, logp, sums, strict=True):
                take.add(row, chances, total / UNIT)
            played, job.done = played + n, job.done + n
            if (len(job.prompt) + played) // apart != (len(job.prompt) + played - n) // apart or played == steps:
                self._save(job, state)
            n = max(1, round(job.rate * BLOCK_SECONDS / bin_)) * bin_
        if len(keys) == 1:
            self.models.note(job.ask.model, job.rate)
        return "whole"

    def _hear(self, job: Job, loaded: Loaded) -> State | None:
        """The state after the prompt, from the nearest saved one; None where the job was stopped."""
        at, state = job.state or (0, loaded.engine.start(1))
        job.done, job.rate = at, self.models.speeds.get(job.ask.model, 0.0) / len(job.takes)  # until it is measured
        piece = HEARD_SECONDS * loaded.known.rate // loaded.model.period * loaded.model.period
        for start in range(at, len(job.prompt), piece):
            if job.stop.is_set() or _abandoned(job):
                return None
            state = loaded.engine.prefill(job.prompt[None, start : start + piece], state)
            job.done = min(start + piece, len(job.prompt))
        return state

    def _save(self, job: Job, state: State) -> None:
        for i, take in enumerate(job.takes):
            take.save_state(state.select([i]))


def ranked(takes: Sequence[Take]) -> list[Take]:
    """The most likely first, as far as they are played."""
    return sorted(takes, key=lambda take: (take.about.bits is None, take.about.bits or 0.0))


def _abandoned(job: Job) -> bool:
    return time.monotonic() - job.seen > ABANDONED


def _next(waiting: list[Job], served: dict[str, float]) -> Job:
    return min(waiting, key=lambda job: served.get(job.ask.user, 0.0))  # the first of equals
