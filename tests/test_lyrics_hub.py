"""Data sets of the hub: what comes, and what is said where nothing does. Models: test_lyrics_models.py."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Page, Server, serving

from sashimi.errors import UserError
from sashimi.lyrics.hub import data_set

PATTERNS = ["*.json"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A hub of our own with one data set, ann/songs."""
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants as constants

    data, sha = json.dumps([{"title": "a", "lyrics": "la"}]).encode(), "0123456789" * 4
    siblings = [{"rfilename": "songs.json", "size": len(data), "blobId": "1" * 40}]
    info = {"id": "ann/songs", "sha": sha, "cardData": {"license": "cc0-1.0"}, "siblings": siblings}
    listed = [{"type": "file", "path": "songs.json", "size": len(data), "oid": "1" * 40}]
    with serving() as server:
        for path in ("", "/revision/main", f"/revision/{sha}"):
            server.pages[f"/api/datasets/ann/songs{path}"] = Page(json.dumps(info).encode(), "application/json")
        server.pages[f"/api/datasets/ann/songs/tree/{sha}"] = Page(json.dumps(listed).encode(), "application/json")
        server.pages[f"/datasets/ann/songs/resolve/{sha}/songs.json"] = Page(data, headers={"X-Repo-Commit": sha})
        refused = {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}
        server.pages["/api/datasets/ann/gated"] = Page(b"{}", "application/json", status=403, headers=refused)
        missing = {"X-Error-Code": "RepoNotFound"}
        server.pages["/api/datasets/ann/missing"] = Page(b"{}", "application/json", status=404, headers=missing)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_hub(hub: Server) -> None:
    folder, name, licence = data_set("hf://datasets/ann/songs", PATTERNS)
    assert (name, licence) == ("songs", "cc0-1.0")
    assert [path.name for path in folder.iterdir()] == ["songs.json"]
    with pytest.raises(UserError, match=r"ann/gated is gated: .*HF_TOKEN"):
        data_set("hf://datasets/ann/gated", PATTERNS)
    with pytest.raises(UserError, match=r"ann/missing is no data set on the hub"):
        data_set("hf://datasets/ann/missing", PATTERNS)
    with pytest.raises(UserError, match="hf://datasets/OWNER/NAME"):
        data_set("hf://ann", PATTERNS)
    hub.pages["/api/datasets/ann/songs"] = Page(b"busy", status=418)
    with pytest.raises(UserError, match=r"could not be downloaded"):
        data_set("hf://datasets/ann/songs", PATTERNS)
    assert all(request.path.startswith(("/api/datasets/ann/", "/datasets/ann/")) for request in hub.log)


def test_without_a_connection(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"ann/songs could not be downloaded .*give a folder$"):
        data_set("hf://datasets/ann/songs", PATTERNS)
