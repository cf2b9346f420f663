"""Files from the Hugging Face hub, through its client, which sets endpoint, cache and offline mode."""

import re
from pathlib import Path

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.models.checkpoint import WEIGHTS_FILES, shard_names
from ssmlens.models.shipped import shipped_names


class NoSuchFile(UsageError):
    """The repository exists and does not have this file."""


class HubUnreachable(SsmlensError):
    """A file is not in the cache and the hub does not answer."""


def download(name: str, file: str, revision: str | None = None) -> Path:
    """Download one file of a hub repository, or take it from the cache; return its local path.

    Its folder is named after the commit of `revision` and holds all files of that commit downloaded so far. The cache
    is used for a full commit hash, which cannot change, and if the hub cannot be reached.

    Raises:
        NoSuchFile: The repository has no such file.
        UsageError: There is no such repository or revision, or this user has no access.
        HubUnreachable: The file is not in the cache and the hub does not answer.
        SsmlensError: The download failed.
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, file, revision=revision)
    except errors.HFValidationError:
        raise UsageError(f"unknown model {name!r}: not a hub id; {_alternatives()}") from None
    if isinstance(cached, str) and re.fullmatch("[0-9a-f]{40}", revision or ""):
        return Path(cached)
    try:
        _probe(name, file, revision)
    except HubUnreachable:
        if isinstance(cached, str):
            return Path(cached)
        raise
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except Exception as error:  # of the HTTP client, or OSError: a broken transfer, a full disk
        raise SsmlensError(
            f"{file} of {name} could not be downloaded from {_endpoint()} ({_first_line(error)}); "
            f"run it again to resume, or {_alternatives()}"
        ) from error


def download_weights(name: str, commit: str) -> None:
    """Download a model's weights with all shards: safetensors if there are any, else pickles."""
    unreachable = None
    for file in WEIGHTS_FILES:
        try:
            path = download(name, file, commit)
        except NoSuchFile:
            continue
        except HubUnreachable as error:
            unreachable = unreachable or error  # the cache may still hold the next candidate
            continue
        for shard in shard_names(path) if path.suffix == ".json" else ():
            download(name, shard, commit)
        return
    raise unreachable or NoSuchFile(f"{name} has no weights: none of {', '.join(WEIGHTS_FILES)}")


def _probe(name: str, file: str, revision: str | None) -> None:
    """Request the file's metadata once: the client's download would retry for 20 s."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    closed = f"{_endpoint()} has none by that name, or it is private (then `hf auth login`)"
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision))
    except errors.GatedRepoError:
        raise UsageError(
            f"{name} is gated: accept its terms at {_endpoint()}/{name}, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(f"unknown model {name!r}: {closed}; {_alternatives()}") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{name} has no revision {revision!r}") from None
    except errors.RemoteEntryNotFoundError:
        raise NoSuchFile(f"{name} has no {file}") from None
    except errors.OfflineModeIsEnabled:
        raise HubUnreachable(
            f"{file} of {name} is not in the cache, and HF_HUB_OFFLINE is set; {_alternatives()}"
        ) from None
    except Exception as error:  # of the HTTP client, whose library changes between versions
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise UsageError(f"unknown model {name!r}: {closed}; {_alternatives()}") from None
        raise HubUnreachable(
            f"{file} of {name} is not in the cache, and the hub at {_endpoint()} cannot be reached "
            f"({_first_line(error)}); {_alternatives()}"
        ) from None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _alternatives() -> str:
    shipped = ", ".join(shipped_names())
    return f"pass a folder with config.json and weights, or a shipped model: {shipped}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
