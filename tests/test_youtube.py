"""yt-dlp behind our own terms: pages, feeds, playlists from a server on 127.0.0.1; what it says in plain words."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import ROOT
from rich.console import Console
from servers import Page, Server, busy, serving
from test_download import QUIET, Call, encoded, sound, sources
from test_download import call as call
from test_download import slept as slept
from test_prepare import contents, manifest

from data_tools.items import Entry
from data_tools.youtube import UPDATE, Manners, SiteError, Sites, about, plain, states_open_licence

yt_dlp = pytest.importorskip("yt_dlp")


def page(*names: str, title: str = "A page") -> Page:
    tags = "".join(f'<audio controls src="{name}"></audio>' for name in names)
    return Page(f"<html><head><title>{title}</title></head><body>{tags}</body></html>".encode(), "text/html")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.pages |= {"/a.wav": Page(sound(3), "audio/wav"), "/b.wav": Page(sound(4, hertz=440), "audio/wav")}
        yield running


def sites(folder: Path, **manners: Any) -> Sites:
    console = Console(file=(folder / "console.txt").open("a"), width=200)
    return Sites(folder, Manners(allow_local=True, sleep=0.0, **manners), console)


# --- pages and lists ----------------------------------------------------------------------------------


def test_a_page_that_plays_something(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages["/page"] = page("/a.m4a", title="Nice &amp; song")
    server.pages["/a.m4a"] = Page(encoded(tmp_path, "a.m4a", "aac"), "audio/mp4")
    out = tmp_path / "out"
    status, printed = call(f"{server.url}/page", "--out", out)
    assert status == 0, printed
    (row,) = manifest(out)
    assert row["source"] == f"{server.url}/page"
    assert row["about"]["title"].startswith("Nice")
    assert (row["about"]["url"], row["about"]["id"]) == (f"{server.url}/page", "page-1")
    assert row["file"].startswith("train/Nice-")
    assert "no open licence is stated for Nice" in printed
    assert "no open licence" not in call(f"{server.url}/page", "--out", out, "--licence", "mine")[1]
    assert server.paths().count("/a.m4a") == 1


def test_on_a_page_without_a_title_recordings_are_called_by_their_files(
    tmp_path: Path, server: Server, call: Call
) -> None:
    server.pages["/"] = Page(b"<html><body><audio src='a%20song.wav'></audio></body></html>", "text/html")
    server.pages["/a%20song.wav"] = server.pages["/a.wav"]
    status, printed = call(f"{server.url}/", "--out", tmp_path / "out")
    assert status == 0, printed
    assert [row["about"]["title"] for row in manifest(tmp_path / "out")] == ["a song"]


def test_a_page_with_several(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages["/page"] = page("/a.wav", "/absent.wav", "/b.wav")
    out = tmp_path / "out"
    status, printed = call(f"{server.url}/page", "--out", out, "--retries", "0")
    assert status == 1
    url = f"{server.url}/page#page"
    assert sources(out) == {f"{url}-1": 3, f"{url}-3": 4}
    assert f"{url}-2: unable to download video data: HTTP Error 404: Not Found" in printed
    before, asked = contents(out), len(server.log)
    server.pages["/absent.wav"] = Page(sound(5), "audio/wav")
    assert call(f"{server.url}/page", "--out", out, "--retries", "0")[0] == 0
    assert sources(out) == {f"{url}-1": 3, f"{url}-2": 5, f"{url}-3": 4}
    assert not {"/a.wav", "/b.wav"} & set(server.paths()[asked:])
    assert contents(out) != before


def paths(out: Path) -> dict[str, float]:
    return {urlsplit(url).path: seconds for url, seconds in sources(out).items()}


FEED = """<?xml version="1.0"?><rss version="2.0"><channel><title>Feed</title>
<item><title>First</title><enclosure url="{0}/a.wav" type="audio/wav"/></item>
<item><title>Second</title><link>{0}/page</link></item>
<item><title>Third</title><enclosure url="{0}/c.wav" type="audio/wav"/></item></channel></rss>"""


def test_a_feed(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages |= {
        "/feed": Page(FEED.format(server.url).encode(), "application/rss+xml"),
        "/page": page("/b.wav"),
        "/c.wav": Page(sound(5), "audio/wav"),
    }
    out = tmp_path / "out"
    assert call(f"{server.url}/feed", "--out", out, "--max-items", "2")[0] == 0
    titles = {row["source"].removeprefix(server.url): row["about"]["title"] for row in manifest(out)}
    assert titles["/a.wav"] == "First"
    assert set(titles) == {"/a.wav", "/page"}
    assert call(f"{server.url}/feed", "--out", out)[0] == 0
    assert {url.removeprefix(server.url): s for url, s in sources(out).items()} == {
        "/a.wav": 3,
        "/page": 4,
        "/c.wav": 5,
    }

    # What is listed is remembered, and looked at again when that is asked for.
    server.pages["/feed"] = Page(FEED.format(server.url).replace("c.wav", "d.wav").encode(), "application/rss+xml")
    server.pages["/d.wav"] = Page(sound(6), "audio/wav")
    asked = len(server.log)
    assert call("--out", out)[0] == 0
    assert len(server.log) == asked
    assert call("--out", out, "--refresh")[0] == 0
    assert {url.removeprefix(server.url): s for url, s in sources(out).items()} == {
        "/a.wav": 3,
        "/page": 4,
        "/d.wav": 6,
    }


def test_a_stream_in_pieces(tmp_path: Path, server: Server, call: Call) -> None:
    """HLS: a playlist of pieces, put together by yt-dlp itself."""
    whole = encoded(tmp_path, "a.ts", "mp2", 6.0)
    third = len(whole) // 3 // 188 * 188
    pieces = {f"/{i}.ts": Page(whole[i * third : (i + 1) * third if i < 2 else None], "video/mp2t") for i in range(3)}
    lines = "".join(f"#EXTINF:2,\n{name}\n" for name in pieces)
    text = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n{lines}#EXT-X-ENDLIST\n"
    server.pages |= {**pieces, "/live.m3u8": Page(text.encode(), "application/vnd.apple.mpegurl")}
    status, printed = call(f"{server.url}/live.m3u8", "--out", tmp_path / "out")
    assert status == 0, printed
    assert sources(tmp_path / "out")[f"{server.url}/live.m3u8"] == pytest.approx(6, abs=0.2)
    server.pages["/1.ts"] = Page(b"", status=404)
    status, printed = call(f"{server.url}/live.m3u8", "--out", tmp_path / "other", "--retries", "0")
    assert status == 2, "no recording with a hole in it"


def test_sections_and_lengths_of_pages(tmp_path: Path, server: Server, call: Call) -> None:
    server.pages |= {"/page": page("/long.wav"), "/long.wav": Page(sound(20), "audio/wav"), "/short": page("/a.wav")}
    out = tmp_path / "out"
    assert call(f"{server.url}/page", "--out", out, "--section", "0:05-0:08", "--section", "10-")[0] == 0
    assert sources(out) == {f"{server.url}/page#t=5,8": 3, f"{server.url}/page#t=10,": 10}
    assert {row["about"]["title"] for row in manifest(out)} == {"A page (1)"}
    status, printed = call(f"{server.url}/page", f"{server.url}/short", "--out", tmp_path / "b", "--max-duration", "10")
    assert (status, "page: it lasts 0:20, longer than" in printed) == (0, True)
    assert sources(tmp_path / "b") == {f"{server.url}/short": 3}


# --- when it goes wrong -------------------------------------------------------------------------------


def test_a_server_that_is_busy_or_breaks_off(tmp_path: Path, server: Server, call: Call, slept: list[float]) -> None:
    server.pages |= {"/page": page("/a.wav"), "/other": page("/b.wav")}
    server.pages["/page"].first = busy("0") + busy("9")  # type: ignore[union-attr]  # the first is for our own look
    server.pages["/b.wav"].cut = [30000, 40000]  # type: ignore[union-attr]
    out = tmp_path / "out"
    status, printed = call(f"{server.url}/page", f"{server.url}/other", "--out", out)
    assert status == 0, printed
    assert sources(out) == {f"{server.url}/page": 3, f"{server.url}/other": 4}
    assert max(slept) >= 9
    assert [r for r in server.ranges() if r and not r.startswith("bytes=0-")], "it went on where it was cut"


def test_pages_without_recordings(tmp_path: Path, server: Server, call: Call, slept: list[float]) -> None:
    server.pages |= {
        "/empty": Page(b"<html><title>x</title><body>nothing</body></html>", "text/html"),
        "/loop": Page(location="/loop"),
        "/good": page("/a.wav"),
    }
    given = [f"{server.url}{path}" for path in ("/empty", "/loop", "/missing", "/good")]
    status, printed = call(*given, "--out", tmp_path / "out", "--retries", "1")
    assert status == 1
    assert sources(tmp_path / "out") == {given[3]: 3}
    listed = printed.partition("could not be used:")[2]
    assert f"{given[0]}: Unsupported URL" in listed
    assert all(f"{url}: " in listed for url in given[:3])
    assert "report this issue" not in printed
    assert "caused by" not in printed


class Fake:
    """An extractor of a site that there is not."""

    def __init__(self, sites: Sites, result: dict[str, Any] | Exception):
        class FakeIE(yt_dlp.extractor.common.InfoExtractor):  # type: ignore[misc, name-defined]
            _VALID_URL = r"https?://.*"

            def _real_extract(self, url: str) -> dict[str, Any]:
                if isinstance(result, Exception):
                    raise result
                return result

        sites.ydl.add_info_extractor(FakeIE())
        self.entry = Entry("http://127.0.0.1:9/watch?v=1", "Fake")


def test_what_an_extractor_knows_is_kept(tmp_path: Path, server: Server) -> None:
    site = sites(tmp_path)
    known = {"id": "x1", "title": "Song", "uploader": "Ann", "upload_date": "20240229", "license": "CC BY"}
    formats = [
        {"format_id": "film", "url": f"{server.url}/b.wav", "ext": "mp4", "vcodec": "h264", "acodec": "aac"},
        {"format_id": "worse", "url": f"{server.url}/b.wav", "ext": "m4a", "vcodec": "none", "abr": 48},
        {"format_id": "better", "url": f"{server.url}/a.wav", "ext": "wav", "vcodec": "none", "abr": 160},
    ]
    formats = [{"acodec": "aac", **each} for each in formats]
    fake = Fake(site, {**known, "formats": formats})
    info = site.look(fake.entry)
    assert isinstance(info, dict)
    seen: list[tuple[float, float | None]] = []
    path, found = site.get(fake.entry, info, "one", lambda _: None, lambda *done: seen.append(done))
    assert path.read_bytes() == sound(3), "the best audio, as it was"
    assert found == {
        "title": "Song", "uploader": "Ann", "url": fake.entry.url, "upload_date": "2024-02-29", "licence": "CC BY",
        "id": "x1", "extractor": "Fake",
    }  # fmt: skip
    assert seen[-1][0] == len(sound(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["console.txt", "one.wav"], "no thumbnails, no notes"


def test_a_long_playlist_is_read_only_as_far_as_wanted(tmp_path: Path) -> None:
    site = sites(tmp_path)
    read: list[int] = []

    def entries() -> Iterator[dict[str, Any]]:
        for i in range(10**6):
            read.append(i)
            yield {"_type": "url", "url": f"https://example.com/{i}", "ie_key": "Fake", "title": f"T{i}"}

    fake = Fake(site, {"_type": "playlist", "id": "p", "title": "P", "entries": entries()})
    found = site.look(fake.entry, 3)
    assert found == [Entry(f"https://example.com/{i}", "Fake", None, f"T{i}") for i in range(3)]
    assert len(read) <= 4


@pytest.mark.parametrize(
    ("error", "expected", "wanted"),
    [
        ("Unable to extract player version", False, f"Unable to extract player version; {UPDATE}"),
        ("This video is private", True, "This video is private"),
        (
            "Sign in to confirm you’re not a bot. Use --cookies or x",
            True,
            "--cookies-from-browser BROWSER",
        ),
    ],
)
def test_errors_in_one_line(tmp_path: Path, error: str, expected: bool, wanted: str) -> None:
    site = sites(tmp_path, retries=0)
    fake = Fake(site, yt_dlp.utils.ExtractorError(error, expected=expected, video_id="x1"))
    with pytest.raises(SiteError) as raised:
        site.look(fake.entry)
    text = str(raised.value)
    assert wanted in text
    assert text.startswith("http://127.0.0.1:9/watch?...: ")
    assert not any(word in text for word in ("ERROR", "\x1b", "\n", "report this issue", "[Fake]", "x1:"))


def test_messages_without_ornaments() -> None:
    raw = (
        "\x1b[0;31mERROR:\x1b[0m [youtube] dQw: Video unavailable. This video is not available\n in your country"
        " (caused by <HTTPError 403: Forbidden>); please report this issue on  https://x , filling out ..."
    )
    assert plain(raw).startswith("Video unavailable. This video is not available in your country")
    assert plain("ERROR: [generic] Unsupported URL: http://a/b") == "Unsupported URL: http://a/b"
    assert plain("") == "yt-dlp failed without a reason"


@pytest.mark.parametrize(
    ("licence", "is_open"),
    [
        ("Creative Commons Attribution license (reuse allowed)", True),
        ("cc-by-sa 4.0", True), ("CC0", True), ("http://creativecommons.org/licenses/by/3.0/", True),
        ("Public Domain", True), ("Standard YouTube License", False), ("All rights reserved", False), (None, False),
    ],
)  # fmt: skip
def test_which_licences_are_open(licence: str | None, is_open: bool) -> None:
    assert states_open_licence(about({"license": licence})) is is_open


# --- manners ------------------------------------------------------------------------------------------


def test_cookies_are_sent_and_left_as_they_are(tmp_path: Path, server: Server, call: Call) -> None:
    cookies = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tkey\tvalue7\n"
    cookies.write_text(text, encoding="utf-8")
    server.pages["/page"] = page("/a.wav")
    server.pages["/page"].headers["Set-Cookie"] = "more=1; Path=/"  # type: ignore[union-attr]
    assert call(f"{server.url}/page", "--out", tmp_path / "out", "--cookies", cookies)[0] == 0
    assert any("key=value7" in request.headers.get("cookie", "") for request in server.log)
    assert cookies.read_text(encoding="utf-8") == text
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and b"value7" in p.read_bytes()]


def test_nothing_of_the_user_is_read_or_left(tmp_path: Path, server: Server) -> None:
    """A home with a configuration that would rename, a plugin that would print, and no cache afterwards."""
    home = tmp_path / "home"
    plugin = home / ".config" / "yt-dlp" / "plugins" / "mine" / "yt_dlp_plugins" / "extractor" / "mine.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("raise SystemExit('the plugin ran')", encoding="utf-8")
    (home / ".config" / "yt-dlp" / "config").write_text("--exec 'touch pwned'\n-o pwned\n", encoding="utf-8")
    before = sorted(home.rglob("*"))
    server.pages["/page"] = page("/a.wav")
    ended = subprocess.run(
        [sys.executable, "-m", "data_tools.download", f"{server.url}/page", "--out", tmp_path / "out", *QUIET],
        cwd=ROOT, env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert (ended.returncode, "plugin" in ended.stdout) == (0, False), ended.stdout
    assert sorted(home.rglob("*")) == before
    assert not (ROOT / "pwned").exists()


def test_it_sleeps_between_items_and_not_before_the_first(
    tmp_path: Path, server: Server, call: Call, slept: list[float]
) -> None:
    given = [f"{server.url}/a.wav", f"{server.url}/b.wav"]
    assert call(*given, "--out", tmp_path / "out", "--sleep", "4")[0] == 0
    assert slept == [4.0]
    assert call(*given, "--out", tmp_path / "out", "--sleep", "4")[0] == 0
    assert slept == [4.0]


def test_what_youtube_needs_is_named(tmp_path: Path) -> None:
    site = sites(tmp_path)
    for _ in range(2):
        site.ydl.report_warning("No supported JavaScript runtime could be found. Only deno is enabled by default")
    site.ydl.report_warning("something else")
    said = tmp_path / "console.txt"
    site.console.file.flush()
    assert said.read_text().count("install Deno 2.3") == 1
    assert "something else" not in said.read_text()
    assert site.knows("https://www.youtube.com/watch?v=dQw4w9WgXcQ")
    assert not site.knows("https://example.com/song.html")
