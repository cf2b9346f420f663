"""The source of a model's files: a shipped name, a folder or a hub id, behind one interface."""

import dataclasses
import difflib
from pathlib import Path

from ssmlens.errors import UsageError
from ssmlens.models import hub
from ssmlens.models.layouts import CONFIG_FILE
from ssmlens.models.shipped import data_folder, shipped_names
from ssmlens.models.tokenizers import (
    TOKENIZER_FILE,
    FastTokenizer,
    Tokenizer,
    read_tokenizer,
)

# state-spaces' own checkpoints come without a tokenizer: they were trained with this one.
STATE_SPACES_TOKENIZER = "EleutherAI/gpt-neox-20b"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A model on this machine: shipped, or the user's."""

    folder: Path
    commit: None = None

    def fetch_weights(self) -> None:
        """Do nothing: if the weights are missing, `read_checkpoint` raises an error."""

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the folder. Raises SsmlensError if there is none."""
        return read_tokenizer(self.folder)


@dataclasses.dataclass(frozen=True)
class Repository:
    """A model on the hub, at one commit; `folder` is its place in the hub client's cache."""

    name: str
    folder: Path

    @property
    def commit(self) -> str:
        """The commit: the hub client names the folder after it."""
        return self.folder.name

    def fetch_weights(self) -> None:
        """Download the weights into `folder` if they are missing."""
        hub.download_weights(self.name, self.commit)

    def tokenizer(self) -> Tokenizer:
        """The repository's tokenizer, or the one that state-spaces trained with."""
        try:
            return FastTokenizer.read(hub.download(self.name, TOKENIZER_FILE, self.commit))
        except (hub.NoSuchFile, hub.HubUnreachable):
            if not self.name.startswith("state-spaces/"):
                raise
        return FastTokenizer.read(hub.download(STATE_SPACES_TOKENIZER, TOKENIZER_FILE))


def find_source(name: str, revision: str | None) -> Folder | Repository:
    """Find the source of model `name`. For a hub id, config.json is downloaded to resolve the commit.

    Raises:
        UsageError: It is neither a shipped model, nor a folder, nor on the hub.
        SsmlensError: The hub cannot be reached.
    """
    path = Path(name).expanduser()
    shipped = name in shipped_names()
    if shipped or path.is_dir():
        if revision is not None:
            raise UsageError(f"{name} is not on the hub: a revision ({revision!r}) does not apply")
        return Folder(data_folder() / "models" / name if shipped else path)
    if path.is_file():
        raise UsageError(f"{name} is a file; pass the folder that has config.json and the weights")
    owner, slash, repository = name.partition("/")
    if not (slash and owner and repository) or owner[0] in ".~" or "/" in repository:
        near = difflib.get_close_matches(name, shipped_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped: {', '.join(shipped_names())}"
        raise UsageError(
            f"unknown model {name!r}: no such folder, and not a hub id (owner/name); {hint}"
        )
    return Repository(name, hub.download(name, CONFIG_FILE, revision).parent)
