"""Hub data sets from a hub of our own."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from servers import Page, Server, busy, serving

from data_tools import network
from data_tools.fetch import FetchError, TooLarge
from data_tools.hub import DIGITS, NAMED, HubFiles, Named, hub_files, parse, published_split
from data_tools.splitting import by_list
from sashimi.errors import UserError

SOUND = bytes(range(256)) * 400  # 102,400 bytes
SHA = "0123456789abcdef" * 2 + "01234567"
SPEC = "hf://datasets/ann/music"
TOKEN = "hf_t0ken"
Call = Callable[..., HubFiles]


def zipped(**entries: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def publish(server: Server, files: dict[str, bytes], card: dict[str, Any] | None = None, sha: str = SHA) -> None:
    """Puts ann/music on the hub. Files from 1,000 bytes on are of the large kind, with their hash."""
    siblings = []
    for name, data in files.items():
        about: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if len(data) >= 1000:
            about["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
        siblings.append(about)
        # As the real one, which redirects to where the bytes are.
        server.pages[f"/datasets/ann/music/resolve/{sha}/{name}"] = Page(location=f"/blobs/{sha[:4]}/{name}")
        server.pages[f"/blobs/{sha[:4]}/{name}"] = Page(data)
    info = {"id": "ann/music", "sha": sha, "cardData": card, "siblings": siblings}
    server.pages["/api/datasets/ann/music"] = Page(json.dumps(info).encode(), "application/json")
    server.pages[f"/api/datasets/ann/music/revision/{sha}"] = server.pages["/api/datasets/ann/music"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def get(tmp_path: Path, slept: list[float]) -> Call:
    def call(spec: str = SPEC, **changes: Any) -> HubFiles:
        settings: dict[str, Any] = {"allow_local": True, "max_bytes": 10**7, "report": lambda done, total: None}
        return hub_files(spec, tmp_path / "hub", **{**settings, "sleep": slept.append, **changes})

    return call


def contents(found: HubFiles) -> dict[str, bytes]:
    return {name: (found.folder / name).read_bytes() for name in found.files}


def test_recordings_and_archives_with_the_licence(hub: Server, get: Call) -> None:
    archive = zipped(**{"set/b.wav": SOUND[::-1], "list.txt": b"b"})
    publish(hub, {"README.md": b"# Music", "x/a.wav": SOUND, "set.zip": archive}, {"license": "cc-by-4.0"})
    told: list[tuple[int, int | None]] = []
    found = get(report=lambda done, total: told.append((done, total)))
    assert contents(found) == {
        "set.zip.unpacked/list.txt": b"b", "set.zip.unpacked/set/b.wav": SOUND[::-1], "x/a.wav": SOUND,
    }  # fmt: skip
    assert found.licence == "cc-by-4.0"
    assert found.url == f"{hub.url}/datasets/ann/music"
    assert found.revision == SHA
    total = len(SOUND) + len(archive)
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert not (found.folder / "set.zip").exists()


@pytest.mark.parametrize(
    ("path", "names"),
    [("/x", ["x/a.wav", "x/y/b.wav"]), ("/x/y/b.wav", ["x/y/b.wav"]), ("/x/notes.md", ["x/notes.md"]),
     (f"@{SHA}/x/", ["x/a.wav", "x/y/b.wav"])],
)  # fmt: skip
def test_a_file_a_folder_a_revision(hub: Server, get: Call, path: str, names: list[str]) -> None:
    publish(hub, {"x/y/b.wav": SOUND, "x/a.wav": b"a", "xa.wav": b"no", "x/notes.md": b"notes"})
    found = get(SPEC + path)
    assert found.files == names
    assert found.licence is None


def test_what_is_there_is_not_downloaded_again(hub: Server, get: Call) -> None:
    publish(hub, {"a.wav": SOUND, "set.zip": zipped(**{"b.wav": SOUND})})
    first = get()
    hub.log.clear()
    assert get() == first
    assert [path.partition("?")[0] for path in hub.paths()] == ["/api/datasets/ann/music"]
    (first.folder / "a.wav").unlink()
    assert get() == first
    assert sum("/resolve/" in path for path in hub.paths()) == 1


def test_a_new_version_replaces_the_old(hub: Server, get: Call) -> None:
    publish(hub, {"a.wav": SOUND, "b.wav": SOUND, "set.zip": zipped(**{"c.wav": b"1", "d.wav": b"2"})})
    get()
    hub.log.clear()
    new = {"a.wav": SOUND[::-1], "b.wav": SOUND, "set.zip": zipped(**{"c.wav": b"3"})}
    publish(hub, new, sha=SHA[::-1])
    assert contents(get()) == {"a.wav": SOUND[::-1], "b.wav": SOUND, "set.zip.unpacked/c.wav": b"3"}
    assert not any(path.endswith("b.wav") for path in hub.paths())


def test_a_broken_connection_goes_on(hub: Server, get: Call, slept: list[float]) -> None:
    publish(hub, {"a.wav": SOUND})
    hub.pages["/blobs/0123/a.wav"] = Page(SOUND, cut=[40_000], first=busy("3"))
    assert contents(get()) == {"a.wav": SOUND}
    assert hub.ranges()[-1] == "bytes=40000-"
    assert slept[0] == 3


def test_the_token_is_used_and_goes_no_further(hub: Server, get: Call) -> None:
    publish(hub, {"a.wav": SOUND})
    with serving({"/a.wav": Page(SOUND)}) as storage:
        hub.pages[f"/datasets/ann/music/resolve/{SHA}/a.wav"] = Page(location=f"{storage.url}/a.wav")
        get()
        assert [request.headers.get("authorization") for request in hub.log] == [f"Bearer {TOKEN}"] * 2
        assert "authorization" not in storage.log[0].headers


def test_bytes_that_are_not_what_the_hub_says(hub: Server, get: Call, tmp_path: Path) -> None:
    publish(hub, {"a.wav": SOUND})
    hub.pages["/blobs/0123/a.wav"] = Page(SOUND[::-1])
    with pytest.raises(FetchError, match="SHA-256"):
        get()
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(401, "RepoNotFound", "it is private"), (404, "RepoNotFound", "it is private"), (401, "", "it is private"),
     (403, "GatedRepo", "is gated"), (401, "GatedRepo", "is gated"), (404, "RevisionNotFound", "no revision"),
     (500, "", "the hub says 500")],
)  # fmt: skip
def test_what_the_hub_keeps(hub: Server, get: Call, status: int, code: str, words: str) -> None:
    headers = {"X-Error-Code": code, "X-Error-Message": "no"} if code else {}
    hub.pages["/api/datasets/ann/music"] = Page(b"{}", "application/json", status=status, headers=headers)
    with pytest.raises(UserError, match=words) as error:
        get()
    assert "ann/music" in str(error.value)
    assert TOKEN not in str(error.value)
    for remedy in ("hf auth login", "HF_TOKEN"):
        assert (remedy in str(error.value)) == (words in ("is gated", "it is private"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_that_only_the_files_are_behind(hub: Server, get: Call, status: int) -> None:
    publish(hub, {"a.wav": SOUND})
    hub.pages[f"/datasets/ann/music/resolve/{SHA}/a.wav"] = Page(status=status)
    with pytest.raises(UserError, match=r"is gated: agree to its terms at .*/datasets/ann/music.*hf auth login"):
        get()


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [({"README.md": b"# none"}, "", "no recordings"), ({"data/train.parquet": b"PAR1"}, "", "tables"),
     ({"a.wav": b"a"}, "/b.wav", "no such file"), ({}, "", "no recordings"), ({"../a.wav": b"a"}, "", "outside")],
)  # fmt: skip
def test_nothing_to_take(hub: Server, get: Call, files: dict[str, bytes], path: str, words: str) -> None:
    publish(hub, files)
    with pytest.raises(UserError, match=words):
        get(SPEC + path)


def test_limits_are_of_everything(hub: Server, get: Call, tmp_path: Path) -> None:
    publish(hub, {"a.wav": SOUND, "b.wav": SOUND})
    with pytest.raises(TooLarge, match="204,800 bytes are more than the limit of 200,000 bytes"):
        get(max_bytes=200_000)
    assert not list(tmp_path.rglob("*.wav"))


def test_a_hub_in_the_local_network_must_be_allowed(hub: Server, get: Call) -> None:
    publish(hub, {"a.wav": SOUND})
    with pytest.raises(UserError, match="--allow-local"):
        get(allow_local=False)
    assert hub.log == []


def test_a_hub_that_redirects_into_the_local_network(hub: Server, get: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "is_public", lambda address: address == "127.0.0.1")
    publish(hub, {"a.wav": SOUND})
    for path in ("/api/datasets/ann/music", f"/datasets/ann/music/resolve/{SHA}/a.wav"):
        before, hub.pages[path] = hub.pages[path], Page(location="http://127.0.0.2:9/secret")
        with pytest.raises(UserError, match=r"127\.0\.0\.2.*--allow-local"):
            get(allow_local=False)
        hub.pages[path] = before
    assert get(allow_local=False).files == ["a.wav"]


def test_no_hub_at_all(monkeypatch: pytest.MonkeyPatch, get: Call) -> None:
    with serving() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(UserError, match="cannot be looked up"):
        get()


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [("hf://datasets/ann/music", ("ann/music", None, None)), ("hf://datasets/ann/music/", ("ann/music", None, None)),
     ("hf://datasets/ann/music.v2/a b/c.wav", ("ann/music.v2", None, "a b/c.wav")),
     ("hf://datasets/ann/music@main/c.wav", ("ann/music", "main", "c.wav"))],
)  # fmt: skip
def test_addresses(spec: str, parsed: tuple[str, str | None, str | None]) -> None:
    assert parse(spec) == parsed


@pytest.mark.parametrize(
    "spec", ["hf://ann/music", "hf://datasets/ann", "hf://datasets//x", "hf://spaces/a/b", "hf://"]
)
def test_no_addresses(spec: str) -> None:
    with pytest.raises(UserError, match="hf://datasets/OWNER/NAME"):
        parse(spec)


def test_telemetry_is_off() -> None:
    code = (
        "from data_tools.hub import _token; _token(); from huggingface_hub import constants; "
        "import sys; sys.exit(not constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- named data sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_named_sets_are_well_formed(name: str) -> None:
    assert "/" in parse(NAMED[name].spec)[0]
    assert NAMED[name].split in ("recording", "lists")


def test_music_is_split_by_recording(tmp_path: Path) -> None:
    assert published_split(NAMED["youtubemix"], ["a.wav"], tmp_path) is None


def spoken(lists: dict[str, str]) -> dict[str, bytes]:
    """A tiny set of speech commands. The same speaker says every word, under the same file name."""
    files = {f"sc09/{word}/{who}.wav": SOUND for word in (*DIGITS, "bed") for who in ("ann", "bob", "cy")}
    return {**files, **{f"sc09/{name}": text.encode() for name, text in lists.items()}}


def test_spoken_digits_are_split_by_their_lists(hub: Server, get: Call) -> None:
    lists = {"validation_list.txt": "bed/ann.wav\none/ann.wav\ntwo/bob.wav\n", "testing_list.txt": "two/ann.wav\r\n"}
    publish(hub, {"sc09.zip": zipped(**spoken(lists))})
    named = Named(f"{SPEC}/sc09.zip", "lists", "")
    found = get(named.spec)
    split = published_split(named, found.files, found.folder)
    assert split is not None
    top = "sc09.zip.unpacked/sc09"
    assert split["val"] == [f"{top}/one/ann.wav", f"{top}/two/bob.wav"]
    assert split["test"] == [f"{top}/two/ann.wav"]
    assert len(split["train"]) == 27
    assert not any("bed" in name for names in split.values() for name in names)
    listed = [name for names in split.values() for name in names]
    assert by_list(split, listed)[f"{top}/two/bob.wav"] == "val"  # as prepare reads it


@pytest.mark.parametrize(
    "lists", [{"validation_list.txt": "one/ann.wav"}, {"validation_list.txt": "one/ann.wav", "testing_list.txt": "x\n"}]
)
def test_lists_that_are_missing_or_empty(hub: Server, get: Call, lists: dict[str, str]) -> None:
    publish(hub, {"sc09.zip": zipped(**spoken(lists))})
    named = Named(f"{SPEC}/sc09.zip", "lists", "")
    found = get(named.spec)
    with pytest.raises(UserError, match=r"testing_list\.txt"):
        published_split(named, found.files, found.folder)
