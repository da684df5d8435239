"""Data sets of the Hugging Face hub: their recordings as local files, their licence, and the published splits.

The hub's library says what there is and who we are; the files come through `data_tools.fetch`, which keeps to
public addresses and goes on where it was stopped.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.archives import ENDINGS, TooLarge, is_archive, unpack
from data_tools.dataset import file_hash
from data_tools.fetch import FetchError, fetch, megabytes, safe_name
from data_tools.network import check_url, public_only, refused_in
from data_tools.sources import SUFFIXES
from sashimi.errors import UserError

ENDPOINT = "https://huggingface.co"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
SPEC = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([^/\s]+))?(?:/(.+))?")
DONE = ".hub.jsonl"  # in a downloaded folder: what of the repository is there, and in which version
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Named:
    """A published data set. split: the rule, see `published_split`; about: what its users should know."""

    spec: str
    split: str
    about: str


NAMED = {
    "youtubebigband": Named(
        "hf://datasets/galbezalel/youtube_bigband",
        "recording",
        "two hours of big-band jazz in minutes; the repository may also hold clips that models made: look first",
    ),
    "youtubemix": Named("hf://datasets/krandiash/youtubemix/youtubemix.zip", "recording", "four hours of piano"),
    "beethoven": Named("hf://datasets/krandiash/beethoven/beethoven.zip", "recording", "Beethoven's piano sonatas"),
    "sc09": Named("hf://datasets/krandiash/sc09/sc09.zip", "lists", "spoken digits, a second each"),
}


@dataclass(frozen=True)
class HubFiles:
    """What was downloaded.

    folder    where it is
    files     recordings and lists, relative to `folder`, in order of name
    licence   as the data set's card states it
    url       the data set's page;   revision: the commit that was downloaded
    """

    folder: Path
    files: list[str]
    licence: str | None
    url: str
    revision: str


@dataclass(frozen=True)
class _Remote:
    """A file of a repository. version: changes with its content; sha256: of its content, where the hub says."""

    name: str
    size: int
    version: str
    sha256: str | None


@dataclass(frozen=True)
class _Repository:
    id: str
    url: str
    revision: str
    licence: str | None
    files: list[_Remote]


def hub_files(
    spec: str,
    folder: Path,
    *,
    allow_local: bool,
    report: Callable[[int, int | None], None],
    max_bytes: int,
    limit_rate: float | None = None,
    retries: int = 5,
    sleep: Callable[[float], None] = time.sleep,
) -> HubFiles:
    """Download a data set, `hf://datasets/OWNER/NAME[@REVISION][/FILE or FOLDER]`, into `folder`, archives unpacked.

    Of a whole data set or a folder of it, recordings and archives are taken. What an earlier call brought of the
    same version is not downloaded again. HF_ENDPOINT and HF_TOKEN are honoured, as is `hf auth login`.

    report is told of the bytes of all files; max_bytes limits them, and each archive's content. Raises UserError.
    """
    name, revision, path = parse(spec)
    token = _token()
    with public_only(allow_local):
        repository = _look_up(name, revision, token, allow_local)
    chosen = _choose(spec, repository, path)
    total = sum(remote.size for remote in chosen)
    if total > max_bytes:
        raise TooLarge(f"{spec}: {megabytes(total)} are more than the limit of {megabytes(max_bytes)}")
    from huggingface_hub import hf_hub_url

    folder.mkdir(parents=True, exist_ok=True)
    done, before = _Done(folder), 0
    for remote in chosen:
        if not done.has(remote):
            path_in = _inside(remote.name, spec)
            target = folder / path_in.parent / safe_name(path_in.name)
            target.unlink(missing_ok=True)  # of another version
            url = hf_hub_url(name, remote.name, repo_type="dataset", revision=repository.revision, endpoint=_endpoint())

            def so_far(bytes_: int, _: int | None, before: int = before) -> None:
                report(before + bytes_, total or None)

            try:
                fetched = fetch(
                    url,
                    target.parent,
                    allow_local=allow_local,
                    report=so_far,
                    max_bytes=max_bytes - before,
                    limit_rate=limit_rate,
                    retries=retries,
                    sleep=sleep,
                    headers={"Authorization": f"Bearer {token}"} if token else None,
                    name=target.name,
                )
            except FetchError as error:
                if error.status in (401, 403):
                    raise _gated(name, repository.url) from None
                raise
            _verify(fetched.path, remote, url)
            done.add(remote, _unpacked(fetched.path, folder, max_bytes))
        before += remote.size
        report(before, total or None)
    files = sorted({file for remote in chosen for file in done.files(remote)}, key=PurePosixPath)
    return HubFiles(folder, files, repository.licence, repository.url, repository.revision)


def published_split(named: Named, files: list[str], folder: Path) -> dict[str, list[str]] | None:
    """The recordings of train, val and test; None where they are to be split 88/6/6 by recording, in order of name.

    "lists" are those of speech commands: validation_list.txt and testing_list.txt name FOLDER/FILE; only the folders
    of digits count. files: as in HubFiles. Raises UserError where a list is missing, or names nothing that is there.
    """
    if named.split == "recording":
        return None
    spoken = {}
    for file in files:
        path = PurePosixPath(file)
        if path.parent.name in DIGITS and path.suffix.lower() in SUFFIXES:
            spoken[f"{path.parent.name}/{path.name}"] = file
    split: dict[str, list[str]] = {}
    for part, listing in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        found = [file for file in files if PurePosixPath(file).name == listing]
        if len(found) != 1:
            raise UserError(f"{named.spec} should hold one {listing}, and there are {len(found)}; it has changed")
        lines = (folder / found[0]).read_text(encoding="utf-8").splitlines()
        split[part] = sorted(spoken.pop(line.strip()) for line in lines if line.strip() in spoken)
        if not split[part]:
            raise UserError(f"{folder / found[0]} names none of the recordings; delete {folder} and download it again")
    return {"train": sorted(spoken.values()), **split}


def parse(spec: str) -> tuple[str, str | None, str | None]:
    """OWNER/NAME, the revision and the path in the repository."""
    found = SPEC.fullmatch(spec.rstrip("/"))
    if not found:
        raise UserError(f"{spec}: write a hub data set as hf://datasets/OWNER/NAME, perhaps with /FILE after it")
    return found[1], found[2], found[3]


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _token() -> str | None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the library is imported
    from huggingface_hub import get_token

    return get_token()


def _look_up(name: str, revision: str | None, token: str | None, allow_local: bool) -> _Repository:
    """Raises UserError for what is not there, or not for us."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    endpoint = _endpoint()
    check_url(endpoint, allow_local)
    url = f"{endpoint}/datasets/{name}"
    api = HfApi(endpoint=endpoint, token=token or False)
    try:
        info = api.dataset_info(name, revision=revision, files_metadata=True, timeout=60)
    except GatedRepoError:
        raise _gated(name, url) from None
    except RevisionNotFoundError:
        raise UserError(f"the data set {name} has no revision {revision}; see {url}") from None
    except HFValidationError:
        raise UserError(f"{name} is no name of a data set; it should be OWNER/NAME") from None
    except OfflineModeIsEnabled:
        raise UserError(f"{url} cannot be looked up while HF_HUB_OFFLINE is set; unset it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):  # the hub does not tell strangers which
            raise UserError(
                f"there is no data set {name} at {endpoint}, or it is private. Check the name; if it is, {LOG_IN}"
            ) from None
        raise UserError(f"{url} cannot be looked up: the hub says {status}; try again later") from None
    except Exception as error:  # the library's connections raise the errors of httpx or of httpx2, by its version
        if refused_in(error):
            raise
        raise UserError(f"{url} cannot be looked up ({error or type(error).__name__}); check the connection") from None
    card: Any = info.card_data
    licence = card.get("license") if card is not None else None
    return _Repository(
        name,
        url,
        str(info.sha or revision or "main"),
        ", ".join(map(str, licence)) if isinstance(licence, list) else licence and str(licence),
        [
            _Remote(
                s.rfilename,
                int(s.size or 0),
                str(s.lfs.sha256 if s.lfs else s.blob_id or info.sha),
                s.lfs.sha256 if s.lfs else None,
            )
            for s in info.siblings or []
        ],
    )


def _gated(name: str, url: str) -> UserError:
    return UserError(f"the data set {name} is gated: agree to its terms at {url}, then {LOG_IN}")


def _choose(spec: str, repository: _Repository, path: str | None) -> list[_Remote]:
    """The file of that name, else the recordings and archives in the folder of that name, in order."""
    named = [remote for remote in repository.files if remote.name == path]
    if named:
        return named
    within = [remote for remote in repository.files if not path or remote.name.startswith(f"{path}/")]
    chosen = [remote for remote in within if remote.name.lower().endswith((*SUFFIXES, *ENDINGS))]
    if path and not within:
        raise UserError(f"{spec}: there is no such file or folder; see {repository.url}/tree/{repository.revision}")
    if not chosen:
        tables = any(remote.name.endswith((".parquet", ".arrow")) for remote in within)
        hint = "; its recordings may be in tables (parquet), which are not read" if tables else ""
        raise UserError(f"{spec} has no recordings and no archives{hint}; see {repository.url}")
    return sorted(chosen, key=lambda remote: PurePosixPath(remote.name))


def _inside(name: str, spec: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise UserError(f"{spec} has a file named {name!r}, which would be written outside of the folder")
    return path


def _verify(path: Path, remote: _Remote, url: str) -> None:
    if remote.sha256 and file_hash(path) != remote.sha256:
        path.unlink()
        raise FetchError(f"{url}: what came is not what the hub says it is (SHA-256); run this again")


def _unpacked(path: Path, folder: Path, max_bytes: int) -> list[str]:
    """The files, relative to `folder`, that a downloaded one is or holds; an archive goes once it is unpacked."""
    if not is_archive(path):
        return [path.relative_to(folder).as_posix()]
    into = path.with_name(f"{path.name}.unpacked")
    if into.exists():  # of another version, or of a run that was killed before it was noted
        shutil.rmtree(into)
    files = unpack(path, into, max_bytes=max_bytes)
    path.unlink()
    return [file.relative_to(folder).as_posix() for file in files]


class _Done:
    """What of a repository is in a folder. A line is added for each of its files; a broken last line does not count."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / DONE
        self.notes: dict[tuple[str, str], list[str]] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    note = json.loads(line)
                    self.notes[note["name"], note["version"]] = note["files"]
                except (ValueError, TypeError, KeyError):
                    continue

    def has(self, remote: _Remote) -> bool:
        files = self.notes.get((remote.name, remote.version), [])
        return bool(files) and all((self.folder / file).is_file() for file in files)

    def files(self, remote: _Remote) -> list[str]:
        return self.notes[remote.name, remote.version]

    def add(self, remote: _Remote, files: list[str]) -> None:
        self.notes[remote.name, remote.version] = files
        line = json.dumps({"name": remote.name, "version": remote.version, "files": files}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
