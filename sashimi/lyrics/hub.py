"""Models and data sets of the Hugging Face hub -> files here, in the hub library's own cache; downloaded once."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sashimi.errors import UserError

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_DATA_SET = re.compile(r"hf://datasets/([\w.-]+)/([\w.-]+?)(?:@([^/\s]+))?")
# Of a repository's root: what a model is read from. Other forms of the same weights stay where they are.
_WANTED = re.compile(
    r"(?:model(?:-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|(?:generation_)?config\.json|README\.md|"
    r"tokenizer[\w.]*\.(?:json|model)|special_tokens_map\.json|added_tokens\.json|chat_template\.\w+|vocab\.\w+|"
    r"merges\.txt)"
)


def folder(name: str) -> tuple[Path, str | None]:
    """OWNER/NAME -> a folder with its weights, and the licence that its card states. Without a network: what is here.

    Raises UserError for what does not exist, is gated, or cannot be downloaded; the same call goes on with the rest.
    """
    from huggingface_hub import HfApi, snapshot_download

    with _errors(name):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        try:
            info = api.model_info(name, files_metadata=False)
        except Exception as error:
            if not _unreachable(error):
                raise
            kept = _kept(name)
            if kept is None:
                raise
            return kept, None
        wanted = [s.rfilename for s in info.siblings or [] if _WANTED.fullmatch(s.rfilename)]
        if not any(file.endswith(".safetensors") for file in wanted):
            raise UserError(_no_weights(name, [s.rfilename for s in info.siblings or []]))
        found = snapshot_download(name, allow_patterns=wanted, endpoint=os.environ.get("HF_ENDPOINT"))
    return Path(found), _licence(info)


def file(name: str) -> Path:
    """OWNER/NAME/FILE.gguf -> the file. Raises UserError as `folder`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, wanted = name.rpartition("/")
    with _errors(name):
        try:
            return Path(hf_hub_download(repository, wanted, endpoint=os.environ.get("HF_ENDPOINT")))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            raise UserError(f"{repository} has no file {wanted}, and there is no {name} on this machine") from None


def data_set(spec: str, patterns: list[str]) -> tuple[Path, str, str | None]:
    """hf://datasets/OWNER/NAME[@REVISION] -> a folder with its files of these patterns, NAME, and its card's licence.

    Raises UserError as `folder`.
    """
    from huggingface_hub import HfApi

    found = _DATA_SET.fullmatch(spec)
    if not found:
        raise UserError(f"{spec} is not of the form hf://datasets/OWNER/NAME or ...@REVISION")
    repository, revision = f"{found[1]}/{found[2]}", found[3]
    with _errors(spec, "data set"):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        info = api.dataset_info(repository, revision=revision)
        kept = api.snapshot_download(repository, repo_type="dataset", revision=info.sha, allow_patterns=patterns)
    return Path(kept), found[2], _licence(info)


def _licence(info: Any) -> str | None:
    stated = info.card_data.to_dict().get("license") if info.card_data else None
    return ", ".join(stated) if isinstance(stated, list) else stated


def _no_weights(name: str, files: list[str]) -> str:
    gguf = [f for f in files if f.endswith(".gguf")]
    if gguf:
        return f"{name} has GGUF files: name one of them, as {name}/{gguf[0]}"
    if "adapter_config.json" in files:
        return f"{name} is an adapter and no model; give its base"
    if any(f.endswith((".bin", ".pt", ".pth")) for f in files):
        return f"{name} has its weights as .bin only, which may run code when read; use a model with safetensors"
    return f"{name} has no weights in safetensors"


def _kept(name: str) -> Path | None:
    """The folder of an earlier download. Whether all of it is there, whoever reads it finds out."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=["config.json"]))
    except LocalEntryNotFoundError:
        return None


def _unreachable(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        isinstance(error, OfflineModeIsEnabled)
        or _of_httpx(error, "TransportError")
        or (_of_httpx(error, "HTTPError") and (status is None or status >= 500))
    )


def _of_httpx(error: BaseException, name: str) -> bool:
    """Whether an error is httpx's, under the name by which the hub library has it: httpx, or httpx2."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] in ("httpx", "httpx2") for kind in type(error).mro()
    )


@contextmanager
def _errors(name: str, what: str = "model") -> Iterator[None]:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{name} is gated: ask for access on its page at huggingface.co, then `hf auth login` or set HF_TOKEN; "
            f"or use a {what} that is open to all"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: there is no such revision") from None
    except RepositoryNotFoundError:
        here = "" if what == "data set" else "no folder here, and "
        raise UserError(
            f"{name} is {here}no {what} on the hub (or one that may only be read after `hf auth login`)"
        ) from None
    except HFValidationError:
        raise UserError(f"there is no {name}; give a folder, a .gguf file or a hub id as OWNER/NAME") from None
    except UserError:
        raise
    except Exception as error:
        expected = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled | OSError)
        if not expected and not _of_httpx(error, "HTTPError"):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} could not be downloaded ({reason}); the same command goes on where it stopped. Without a network "
            f"give a folder{'' if what == 'data set' else ' or a .gguf file'}"
        ) from None
