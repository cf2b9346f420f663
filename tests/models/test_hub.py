"""Loading by hub id from a server on this machine that answers as huggingface.co does.

The hub's client reads its environment when it is imported, so every environment is a process of its own; what
is asked of it goes in as JSON and the models' sources, or the errors, come back.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from safetensors.torch import save

from ssmlens.models.checkpoint import digest
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

CONFIG = {"d_model": 16, "n_layer": 2, "vocab_size": 13, "ssm_cfg": {"d_state": 4}}
MAMBA2 = {"d_model": 16, "n_layer": 1, "vocab_size": 13, "pad_vocab_size_multiple": 16}
MAMBA2 |= {"d_intermediate": 0, "ssm_cfg": {"layer": "Mamba2", "headdim": 8, "d_state": 4}}
MAMBA2 |= {"attn_layer_idx": [], "attn_cfg": {}, "tie_embeddings": True}

CLIENT = """
import json, sys
from ssmlens.errors import SsmlensError
from ssmlens.adapters.load import load_model
for name, options in json.load(sys.stdin):
    try:
        model = load_model(name, **options)
    except SsmlensError as error:
        answer = {"error": type(error).__name__, "exit_code": error.exit_code, "message": str(error)}
    else:
        tokenizer = model.tokenizer
        answer = vars(model.source) | {"ids": tokenizer.encode("abba") if tokenizer else None}
    print("ANSWER", json.dumps(answer))
"""


@dataclass
class Hub:
    """Repositories in memory, and what goes wrong when they are asked for.

    Attributes:
        commits: name -> commit -> file -> content.
        branches: name -> branch -> commit.
        refusals: name -> (status, X-Error-Code).
        faults: name -> how many bytes of a weights file to send before hanging up, a number a try.
        cut_short: Names whose weights files end early, without a sign of it.
        log: Every request.
    """

    commits: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)
    refusals: dict = field(default_factory=dict)
    faults: dict = field(default_factory=dict)
    cut_short: set = field(default_factory=set)
    log: list = field(default_factory=list)
    url: str = ""

    def add(self, name, files, branch="main"):
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(name, {})[commit] = files
        self.branches.setdefault(name, {})[branch] = commit
        return commit


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass

    def answer(self):
        hub, path = self.hub, self.path.split("?")[0].strip("/")
        hub.log.append(f"{self.command} {path}")
        if path.count("/") < 4:
            return self.refuse(404, "")  # what the client reports about itself
        owner, repository, place, revision, file = path.split("/", 4)
        name = f"{owner}/{repository}"
        if name in hub.refusals:
            return self.refuse(*hub.refusals[name])
        if name not in hub.commits:
            return self.refuse(401, "RepoNotFound")
        commit = hub.branches[name].get(revision, revision)
        if commit not in hub.commits[name]:
            return self.refuse(404, "RevisionNotFound")
        headers = {"X-Repo-Commit": commit}
        if file not in hub.commits[name][commit]:
            return self.refuse(404, "EntryNotFound", headers)
        content = hub.commits[name][commit][file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if place == "cdn":
            return self.send_content(content, name)
        if file.endswith((".bin", ".safetensors")):  # large files lie elsewhere
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": etag}
            elsewhere = hub.url.replace("127.0.0.1", "localhost")
            headers |= {"Location": f"{elsewhere}/{name}/cdn/{commit}/{file}"}
            return self.send(302, headers, b"")
        return self.send(200, headers | {"ETag": etag}, content)

    def send_content(self, content, name):
        status, headers = 200, {}
        if name in self.hub.cut_short:
            content = content[:100]
        if "Range" in self.headers:
            first = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[first:]
        tries = self.hub.faults.get(name)
        self.send(status, headers, content, tries.pop(0) if tries else None)

    def refuse(self, status, code, headers=None):
        self.send(status, {"X-Error-Code": code} | (headers or {}), b"no")

    def send(self, status, headers, content, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True


def weights_of(config, seed=0):
    torch.manual_seed(seed)
    state = MambaLM(MambaConfig(**config)).state_dict()
    return {name: t.clone() for name, t in state.items() if name != "lm_head.weight"}


def pickled(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def tokenizer_json(letters):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"?": 99}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer.to_str().encode()


STATE, OLD, STATE2 = weights_of(CONFIG), weights_of(CONFIG, 1), weights_of(MAMBA2)
JSON = json.dumps(CONFIG).encode()
FILES = {"config.json": JSON, "pytorch_model.bin": pickled(STATE)}


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    fill(hub)
    yield hub
    server.shutdown()
    server.server_close()


def fill(hub):
    safe = {"config.json": JSON, "model.safetensors": save(STATE)}
    index = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(STATE))}
    parts = {
        part: save({name: STATE[name] for name, where in index.items() if where == part})
        for part in set(index.values())
    }
    sharded = {"model.safetensors.index.json": json.dumps({"weight_map": index}).encode()}
    gpt2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 8}
    hub.add("state-spaces/mamba-130m", FILES)
    hub.add(
        "state-spaces/mamba2-130m",
        {"config.json": json.dumps(MAMBA2).encode(), "pytorch_model.bin": pickled(STATE2)},
    )
    hub.add("EleutherAI/gpt-neox-20b", {"tokenizer.json": tokenizer_json("xab")})
    hub.add("lab/plain", FILES)
    hub.add("lab/safe", safe | {"pytorch_model.bin": b"never read"})
    hub.add("lab/sharded", {"config.json": JSON} | sharded | parts)
    hub.add("lab/tokenizer", FILES | {"tokenizer.json": tokenizer_json("ba")})
    hub.add("lab/history", FILES)
    hub.add("lab/history", {"config.json": JSON, "pytorch_model.bin": pickled(OLD)}, "old")
    hub.add("lab/no-weights", {"config.json": JSON})
    hub.add("lab/no-config", {"README.md": b"nothing"})
    hub.add("lab/transformer", {"config.json": json.dumps(gpt2).encode(), "model.safetensors": b""})
    hub.add("lab/flaky", safe)
    hub.add("lab/cut", safe)
    hub.faults = {"lab/flaky": [100, 900]}
    hub.cut_short = {"lab/cut"}
    hub.refusals = {
        "lab/gated": (401, "GatedRepo"),
        "lab/denied": (403, "GatedRepo"),
        "lab/private": (401, ""),
        "lab/ill": (500, ""),
    }


def ask(requests, cache, endpoint, **environment):
    """Load every (name, options) of `requests` in one fresh process; the answers, in order."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    clean |= {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, **environment}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(requests),
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    answers = [json.loads(line.removeprefix("ANSWER ")) for line in lines]
    assert len(answers) == len(requests), done.stderr
    return answers


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def online(hub, cache):
    """What loading each of these by id gives, online, once for all tests."""
    old = hub.branches["lab/history"]["old"]
    names = [*hub.commits, *hub.refusals, "lab/nobody", "lab/a b"]
    requests = [[name, {}] for name in names if not name.startswith("Eleuther")]
    requests += [["lab/history", {"revision": r}] for r in ("old", old, "nowhere")]
    answers = ask(requests, cache, hub.url)
    return {
        name if not options else (name, options["revision"]): answer
        for (name, options), answer in zip(requests, answers, strict=True)
    }


@pytest.mark.parametrize(
    "name", ["state-spaces/mamba-130m", "lab/plain", "lab/safe", "lab/sharded"]
)
def test_a_model_loads_by_id(hub, online, name):
    answer = online[name]
    assert answer["digest"] == digest(STATE)
    assert answer["revision"] == hub.branches[name]["main"]
    assert (answer["layout"], answer["backend"]) == ("mamba_ssm", "torch")


def test_mamba2_loads_by_id(online):
    assert online["state-spaces/mamba2-130m"]["digest"] == digest(STATE2)


def test_safetensors_are_preferred_and_pickles_not_downloaded(hub, online):
    assert online["lab/safe"]["digest"] == digest(STATE)
    assert not [line for line in hub.log if "lab/safe" in line and ".bin" in line]


def test_tokenizers(online):
    assert online["state-spaces/mamba-130m"]["ids"] == [1, 2, 2, 1]  # gpt-neox-20b's
    assert online["lab/tokenizer"]["ids"] == [1, 0, 0, 1]  # the model's own
    assert online["lab/plain"]["ids"] is None
    assert "lab/plain has no tokenizer.json" in online["lab/plain"]["tokenizer_problem"]


def test_a_revision_by_branch_and_by_commit(hub, online):
    old = hub.branches["lab/history"]["old"]
    for revision in ("old", old):
        answer = online["lab/history", revision]
        assert (answer["revision"], answer["digest"]) == (old, digest(OLD))
    assert online["lab/history"]["digest"] == digest(STATE)
    missing = online["lab/history", "nowhere"]
    assert (missing["exit_code"], missing["error"]) == (2, "UsageError")
    assert "no revision 'nowhere'" in missing["message"]


@pytest.mark.parametrize(
    ("name", "exit_code", "message"),
    [
        ("lab/nobody", 2, "unknown model 'lab/nobody'"),
        ("lab/private", 2, "unknown model 'lab/private'"),
        ("lab/a b", 2, "unknown model 'lab/a b'"),
        ("lab/gated", 2, "lab/gated is gated: accept its terms"),
        ("lab/denied", 2, "lab/denied is gated: accept its terms"),
        ("lab/no-config", 2, "lab/no-config has no config.json"),
        ("lab/no-weights", 2, "lab/no-weights has no weights: none of model.safetensors"),
        ("lab/transformer", 2, "its token mixers are GPT2Attention"),
        ("lab/ill", 1, "cannot be reached"),
        ("lab/cut", 1, "could not be downloaded"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(online, name, exit_code, message):
    answer = online[name]
    assert answer["exit_code"] == exit_code, answer
    assert message in answer["message"]
    assert "\n" not in answer["message"]
    if "unknown" in message or exit_code == 1:
        assert "pass a folder" in answer["message"]
        assert "copy-mamba1-mimetic" in answer["message"]


def test_an_unsupported_model_is_refused_before_its_weights_are_downloaded(hub, online):
    assert "error" in online["lab/transformer"]
    assert not [line for line in hub.log if "lab/transformer" in line and "safetensors" in line]


def test_a_broken_transfer_is_resumed(hub, online):
    assert online["lab/flaky"]["digest"] == digest(STATE)
    assert hub.faults["lab/flaky"] == []


def test_offline_and_unreachable(hub, online, cache, tmp_path):
    """From the cache what is there; of what is not, one line with the ways out."""
    assert "digest" in online["lab/plain"]
    before = len(hub.log)
    requests = [["state-spaces/mamba-130m", {}], ["lab/never-seen", {}]]
    offline = ask(requests, cache, hub.url, HF_HUB_OFFLINE="1")
    assert len(hub.log) == before
    closed = "http://127.0.0.1:9"  # the discard port: nobody listens
    down = ask(requests, cache, closed)
    for cached, missing in (offline, down):
        assert cached == online["state-spaces/mamba-130m"]
        assert (missing["error"], missing["exit_code"]) == ("HubUnreachable", 1)
        assert "pass a folder" in missing["message"]
        assert "copy-mamba2-mimetic" in missing["message"]
        assert "\n" not in missing["message"]
    assert "HF_HUB_OFFLINE is set" in offline[1]["message"]
    assert closed in down[1]["message"]


def test_an_unreachable_tokenizer_does_not_stop_the_load(hub, tmp_path):
    hub.refusals["EleutherAI/gpt-neox-20b"] = (500, "")
    try:
        (answer,) = ask([["state-spaces/mamba2-130m", {}]], tmp_path, hub.url)
    finally:
        del hub.refusals["EleutherAI/gpt-neox-20b"]
    assert answer["digest"] == digest(STATE2)
    assert answer["ids"] is None
    assert "tokenizer.json of EleutherAI/gpt-neox-20b" in answer["tokenizer_problem"]
