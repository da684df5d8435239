"""Archives that strangers made."""

import io
import os
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from data_tools import archives
from data_tools.archives import is_archive, unpack
from sashimi.errors import UserError

SOUND = os.urandom(5000)
Entry = tuple[str, bytes]
Write = Callable[[Path, Iterable[Entry]], Path]


def as_zip(path: Path, entries: Iterable[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicates
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name) if name.endswith("/") else name, data)
    return path


def as_tar(path: Path, entries: Iterable[Entry], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in entries:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.size = len(data)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(data))
    return path


WRITERS: dict[str, Write] = {
    "zip": as_zip,
    "tar": as_tar,
    "tar.gz": lambda path, entries: as_tar(path, entries, "w:gz"),
    "tar.bz2": lambda path, entries: as_tar(path, entries, "w:bz2"),
    "tar.xz": lambda path, entries: as_tar(path, entries, "w:xz"),
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Makes an archive of every kind, of entries by name; its own name says nothing."""
    return lambda *entries: WRITERS[request.param](tmp_path / "given", entries)


def unpacked(archive: Path, max_bytes: int = 10**6, max_files: int = 1000) -> dict[str, bytes]:
    folder = archive.parent / "out"
    paths = unpack(archive, folder, max_bytes=max_bytes, max_files=max_files)
    assert paths == sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def refused(archive: Path, words: str, max_bytes: int = 10**6, max_files: int = 1000) -> None:
    """Nothing is left of it but the archive."""
    with pytest.raises(UserError, match=words) as error:
        unpack(archive, archive.parent / "out", max_bytes=max_bytes, max_files=max_files)
    assert str(archive) in str(error.value)
    assert os.listdir(archive.parent) == [archive.name]


def test_recordings_and_lists_come_out_and_nothing_else(write: Callable[..., Path]) -> None:
    archive = write(
        ("set/", b""), ("set/b.wav", SOUND), ("set/deep/a.FLAC", SOUND[::-1]), ("validation_list.txt", b"b.wav\n"),
        ("set/run.sh", b"rm -rf ~"), ("set/.hidden.wav", SOUND), ("__MACOSX/set/._b.wav", SOUND), ("more.zip", b"PK"),
        ("./c d.mp3", b"c"),
    )  # fmt: skip
    assert is_archive(archive)
    assert unpacked(archive) == {
        "set/b.wav": SOUND, "set/deep/a.FLAC": SOUND[::-1], "validation_list.txt": b"b.wav\n", "c d.mp3": b"c",
    }  # fmt: skip
    assert sorted(os.listdir(archive.parent)) == ["given", "out"]


@pytest.mark.parametrize(
    "name",
    ["../a.wav", "x/../../a.wav", "/tmp/a.wav", "//a.wav", "..\\a.wav", "C:\\a.wav", "C:a.wav", "\\a.wav", "../x.sh",
     "../folder/"],
)  # fmt: skip
def test_names_that_lead_out(write: Callable[..., Path], name: str) -> None:
    refused(write(("good.wav", SOUND), (name, b"" if name.endswith("/") else SOUND)), r"outside of the folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "given", "w") as archive:
        member = tarfile.TarInfo("a.wav")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    refused(tmp_path / "given", "'a.wav' is a link or a device")


def test_links_in_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "given", "w") as archive:
        link = zipfile.ZipInfo("folder")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/tmp")
        archive.writestr("folder/a.wav", SOUND)
    refused(tmp_path / "given", "'folder' is a link")


def test_more_bytes_than_allowed(write: Callable[..., Path]) -> None:
    refused(write(("a.wav", SOUND), ("b.wav", SOUND)), "'b.wav' .* more than the limit", max_bytes=9999)


def test_exactly_as_many_bytes_as_allowed(write: Callable[..., Path]) -> None:
    assert len(unpacked(write(("a.wav", SOUND), ("b.wav", SOUND)), max_bytes=10_000)) == 2


def test_more_entries_than_allowed(write: Callable[..., Path]) -> None:
    entries = [(f"{n}.sh", b"") for n in range(10)]
    refused(write(("a.wav", SOUND), *entries), "more than 10 entries", max_files=10)


@pytest.mark.parametrize("name", ["bomb.wav", "bomb.bin"])
def test_bombs(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(archives, "HARMLESS", 100_000)
    archive = write((name, bytes(30_000_000)), ("z.wav", SOUND))
    if archive.stat().st_size > 300_000:  # a plain tar is as large as what is in it
        assert "z.wav" in unpacked(archive, 10**9)
    elif name == "bomb.bin" and zipfile.is_zipfile(archive):
        assert list(unpacked(archive, 10**9)) == ["z.wav"]  # what is not wanted is not touched
    else:
        refused(archive, "over 100 times its size", max_bytes=10**9)


def test_a_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "given", [("a.wav", bytes(500_000))])
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # where the unpacked size stands
        start = data.index(magic) + offset
        data[start : start + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "'a.wav'", max_bytes=1000)


def test_a_tar_header_as_large_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LONGEST_HEADER", 2**16)
    with tarfile.open(tmp_path / "given", "w:gz") as archive:
        member = tarfile.TarInfo("a.wav")
        member.pax_headers = {"comment": "x" * 2**17}
        archive.addfile(member)
    refused(tmp_path / "given", "damaged.*too long")


def test_the_later_of_two_entries_counts(write: Callable[..., Path]) -> None:
    assert unpacked(write(("a.wav", SOUND), ("./a.wav", b"new"))) == {"a.wav": b"new"}


def test_names_that_differ_in_case_or_accents_alone(write: Callable[..., Path]) -> None:
    names = ["a.wav", "A.WAV", "a.Wav", "x/\u00e9.wav", "x/e\u0301.wav"]
    found = unpacked(write(*((name, name.encode()) for name in names)))
    assert sorted(found.values()) == sorted(name.encode() for name in names)
    assert {"a.wav", "A-2.WAV", "a-3.Wav"} < set(found)
    assert len({name.casefold() for name in found}) == 5


def test_a_file_where_a_folder_should_be(write: Callable[..., Path]) -> None:
    refused(write(("a.wav", SOUND), ("a.wav/b.wav", SOUND)), "'a.wav/b.wav' cannot be unpacked")


def test_a_name_that_no_file_system_takes(write: Callable[..., Path]) -> None:
    refused(write(("x" * 300 + ".wav", SOUND)), "cannot be unpacked")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_an_archive_cut_short(write: Callable[..., Path], kept: float) -> None:
    archive = write(*((f"{n}.wav", os.urandom(20_000)) for n in range(10)))
    data = archive.read_bytes()
    archive.write_bytes(data[: int(kept * len(data))])
    refused(archive, "damaged")


def test_a_tar_cut_between_two_entries_or_with_a_broken_header(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "given", [("a.wav", bytes(1024)), ("b.wav", bytes(1024))])
    data = path.read_bytes()
    path.write_bytes(data[:1536])
    refused(path, "damaged")
    path.write_bytes(data[:1540] + b"?" + data[1541:])
    refused(path, "damaged")


def test_a_zip_with_a_flipped_bit(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "given", [("a.wav", SOUND)])
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    refused(path, "damaged at 'a.wav'")


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "given", [("a.wav", SOUND)])
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    path.write_bytes(data)
    refused(path, "'a.wav' cannot be unpacked.*encrypted")


def test_nothing_to_hear(write: Callable[..., Path]) -> None:
    refused(write(("read.txt", b"hello")), "no recordings")


def test_only_archives_inside(write: Callable[..., Path]) -> None:
    refused(write(("inner.tar.gz", b"hello")), r"no recordings in .* but archives \(inner.tar.gz\)")


def test_a_folder_that_is_there_stays(write: Callable[..., Path]) -> None:
    archive = write(("a.wav", SOUND))
    (archive.parent / "out").mkdir()
    (archive.parent / "out" / "mine.wav").write_bytes(b"mine")
    with pytest.raises(UserError, match="there already"):
        unpack(archive, archive.parent / "out", max_bytes=10**6)
    assert (archive.parent / "out" / "mine.wav").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "data", [b"", b"RIFF" + bytes(1000), b"PK\x03\x04", b"\x1f\x8b" + bytes(100), bytes(2000), b"BZh9"]
)
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "given.zip").write_bytes(data)
    assert not is_archive(tmp_path / "given.zip")
