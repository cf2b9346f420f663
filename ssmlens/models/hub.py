"""Files from the Hugging Face hub, by its own client: endpoint, cache and offline mode are its."""

import os
from pathlib import Path

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.models.checkpoint import WEIGHTS_FILES, shard_names
from ssmlens.models.shipped import shipped_names


class NoSuchFile(UsageError):
    """The repository exists and does not have this file."""


def download(name: str, file: str, revision: str | None = None) -> Path:
    """The local path of one file of a hub repository, downloaded or found in the cache.

    The file lies in a folder named after the commit that `revision` stands for, with every other
    file of that commit downloaded so far.

    Raises:
        NoSuchFile: The repository has no such file.
        UsageError: There is no such repository or revision, or it is closed to this user.
        SsmlensError: The hub could not be reached, or the download failed.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except errors.HFValidationError:
        raise UsageError(f"unknown model {name!r}: {_otherwise()}") from None
    except errors.GatedRepoError:
        raise UsageError(
            f"{name} is gated: accept its terms at {_endpoint()}/{name}, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"unknown model {name!r}: {_endpoint()} has none by that name (if it is private, "
            f"`hf auth login`); {_otherwise()}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{name} has no revision {revision!r}") from None
    except errors.RemoteEntryNotFoundError:
        raise NoSuchFile(f"{name} has no {file}, so ssmlens cannot load it") from None
    except errors.LocalEntryNotFoundError as error:
        raise HubUnreachable(
            f"{file} of {name} is not in the cache and the hub ({_endpoint()}) cannot be reached"
            f"{_reason(error)}; {_otherwise()}"
        ) from None
    except Exception as error:  # of the HTTP client, or OSError: a broken transfer, a full disk
        raise SsmlensError(
            f"{file} of {name} could not be downloaded from {_endpoint()}: "
            f"{_first_line(error)}; run it again to resume, or {_otherwise()}"
        ) from error


def download_weights(name: str, revision: str) -> None:
    """Fetch a model's weights: safetensors where there are, else pickles, and all the shards."""
    unreachable = None
    for file in WEIGHTS_FILES:
        try:
            path = download(name, file, revision)
        except NoSuchFile:
            continue
        except HubUnreachable as error:
            unreachable = unreachable or error  # the cache may still hold the next candidate
            continue
        for shard in shard_names(path) if path.suffix == ".json" else ():
            download(name, shard, revision)
        return
    raise unreachable or NoSuchFile(f"{name} has no weights: none of {', '.join(WEIGHTS_FILES)}")


class HubUnreachable(SsmlensError):
    """A file is not in the cache and the hub does not answer."""


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def _otherwise() -> str:
    return f"pass a folder with config.json and weights, or a shipped model: {_shipped()}"


def _shipped() -> str:
    return ", ".join(shipped_names())


def _reason(error: Exception) -> str:
    if os.environ.get("HF_HUB_OFFLINE"):
        return " (HF_HUB_OFFLINE is set)"
    return f" ({_first_line(error.__cause__)})" if error.__cause__ else ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
