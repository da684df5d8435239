"""The web app under load: many clients that play and listen, and how fast one clip is there.

    python -m benchmarks.app [--clients 20] [--seconds 60] [--checkpoint FILE]

Starts an app of its own. One client first plays a clip of a minute: the time to its first sound (a browser plays when
it has some 240 KB), whether it ever had to wait for the player while it was heard, the time to its end. Then many
clients at once play clips of five seconds one after another, each listening to the whole of its stream: errors, how
many clips each got (fair: about as many), how long they waited, and the memory of the app before and after.
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from app.models import Models
from benchmarks.machine import machine

ENOUGH = 240_000  # bytes that a browser reads before it plays
FRAME = 8  # bytes a sample of a stream: 32-bit stereo
RATE = 16_000
PORT = 7873
CLIP = 5  # seconds of each clip under load


@dataclass
class Heard:
    """first: seconds until a browser would have played; late: the longest wait while it was heard; end: seconds."""

    first: float
    late: float
    end: float
    error: str = ""


@dataclass
class Client:
    name: str
    clips: list[Heard] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def listen(http: httpx.Client, user: str, model: str, seconds: float, seed: int) -> Heard:
    """Play a clip and take its stream as it comes. Raises httpx.HTTPError where there is none."""
    began, first, late, size = time.monotonic(), 0.0, 0.0, 0
    answer = http.post("/sound/play", json={"user": user, "model": model, "seconds": seconds, "seed": seed})
    if answer.status_code != 200:
        return Heard(0, 0, 0, answer.json()["error"])
    (take,) = answer.json()["takes"]
    with http.stream("GET", f"/sound/takes/{take}/play.wav") as stream:
        for block in stream.iter_raw():
            now, before = time.monotonic() - began, size
            size += len(block)
            if not first and size >= min(ENOUGH, seconds * RATE * FRAME):
                first = now
            elif first:  # what there was before this block was heard out by then, if not sooner
                late = max(late, now - first - before / FRAME / RATE)
    while http.get("/sound/look", params={"take": f"{take}:0"}).json()[0]["status"] in ("waiting", "playing"):
        time.sleep(0.05)
    whole = len(http.get(f"/sound/takes/{take}/file.wav").content) == 44 + 2 * seconds * RATE
    error = "" if whole else "the clip is not whole"
    return Heard(first, late, time.monotonic() - began, error)


def memory(pid: int) -> float:
    """Resident, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


def play_on(client: Client, base: str, model: str, until: float) -> None:
    with httpx.Client(base_url=base, timeout=300) as http:
        while time.monotonic() < until:
            try:
                heard = listen(http, client.name, model, CLIP, len(client.clips))
            except (httpx.HTTPError, KeyError) as error:
                client.errors.append(repr(error))
                continue
            if heard.error:
                client.errors.append(heard.error)
            client.clips.append(heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    named = (arguments.checkpoint,) if arguments.checkpoint else ()
    model, base = Models(Path("runs"), named).known()[0], f"http://127.0.0.1:{PORT}"
    print(machine())
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "app", "--port", str(PORT), "--dir", folder]
        command += [part for path in named for part in ("--checkpoint", str(path))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=base, timeout=300) as http:
                for _ in range(120):
                    try:
                        http.get("/sound/kept")
                        break
                    except httpx.TransportError:
                        time.sleep(0.5)
                listen(http, "warm", model.id, CLIP, 0)
                one = listen(http, "one", model.id, 60, 1)
            print(f"{model.title}, 60 s: first sound {one.first:.2f} s, longest wait {max(one.late, 0) * 1000:.0f} ms, "
                  f"whole in {one.end:.1f} s{one.error}")  # fmt: skip
            before, until = memory(process.pid), time.monotonic() + arguments.seconds
            clients = [Client(f"client {i}") for i in range(arguments.clients)]
            threads = [threading.Thread(target=play_on, args=(c, base, model.id, until)) for c in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            peak = memory(process.pid)
            time.sleep(5)
            counts, errors = [len(c.clips) for c in clients], [e for c in clients for e in c.errors]
            ends = [h.end for c in clients for h in c.clips]
            print(f"{arguments.clients} clients, {arguments.seconds:g} s: {sum(counts)} clips of {CLIP} s, "
                  f"{min(counts)} to {max(counts)} a client, {len(errors)} errors {set(errors) or ''}")  # fmt: skip
            print(f"whole in {statistics.median(ends):.1f} s (median), {max(ends):.1f} s at most")
            print(f"memory {before:.0f} MB before, {peak:.0f} at the end, {memory(process.pid):.0f} after five seconds")
        finally:
            process.terminate()
            process.wait(timeout=30)


if __name__ == "__main__":
    main()
