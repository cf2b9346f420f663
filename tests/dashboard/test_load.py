"""Twenty clients at once, for some seconds: pages, callbacks, what is broken and what is half sent.

`SSMLENS_CLIENT_SECONDS` says for how long, three by default. The answers must be those that one client gets, and what
the server has open, its threads and its memory must not grow.
"""

import hashlib
import json
import os
import random
import re
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

SECONDS = float(os.environ.get("SSMLENS_CLIENT_SECONDS", "3"))
CLIENTS = 20
WAIT = 60.0  # seconds for an answer, on a machine that has other things to do
GROWTH = 160 << 20  # bytes of memory, with what is kept and what twenty requests have at once
SLACK = 4  # threads that come to their end
FILES = 400
LEAST = 6  # requests of each client, however slow the machine
WRITTEN = runpy.run_path(str(Path(__file__).with_name("synthetic_runs.py")))
body_of = runpy.run_path(str(Path(__file__).with_name("callback_bodies.py")))["body_of"]
_OWN = re.compile(rb'Date: [^\r]*\r\n|"end_id":"[^"]*"')  # what each answer has of its own


class Dashboard:
    """A dashboard in a process of its own."""

    def __init__(self, folder, files):
        words = [sys.executable, "-m", "ssmlens", "dashboard", str(folder)]
        # Few descriptors, so that captures have to be let go of all the time.
        begin = f'ulimit -n {files}; exec "$@"'
        self.process = subprocess.Popen(
            ["sh", "-c", begin, "sh", *words, "--port", "0", "--no-browser"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        line = self.process.stdout.readline().decode()
        self.port = int(re.match(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        self._seen = psutil.Process(self.process.pid)

    def counts(self):
        """(descriptors, threads)."""
        return self._seen.num_fds(), self._seen.num_threads()

    def memory(self):
        """Bytes of memory that it has."""
        return self._seen.memory_info().rss

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT)
        connection.settimeout(WAIT)
        return connection

    def ask(self, sent):
        """The answer to some bytes but for what it has of its own; b"" where the connection is closed without one."""
        with self.connect() as connection:
            connection.sendall(sent)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        return _OWN.sub(b"", b"".join(parts))

    def get(self, path):
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()

    def post(self, body, path="/_dash-update-component"):
        here = f"127.0.0.1:{self.port}"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {here}\r\nOrigin: http://{here}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def json(self, path):
        return json.loads(self.ask(self.get(path)).partition(b"\r\n\r\n")[2])

    def close(self):
        """End it; what it said on its two streams."""
        self.process.terminate()
        return self.process.communicate(timeout=WAIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_capture):
    """Captures that are files and folders, of more files than can be open at once, and a sweep."""
    folder = tmp_path_factory.mktemp("load")
    for number in range(4):
        write_capture(folder / f"file-{number}.h5", layers=3, tokens=48, seed=number)
    for number in range(8):
        write_capture(folder / f"folder-{number}", layers=16, tokens=40, seed=10 + number)
    WRITTEN["write_sweep"](folder / "sweep")
    long_ago = time.time() - 3600  # what has just been written is looked at again for a while
    for path in (folder / "sweep").rglob("*"):
        os.utime(path, (long_ago, long_ago))
    return folder


def callbacks(dashboard, capture):
    """A body for every callback of a page that looks at a capture."""
    for wanted in dashboard.json("/_dash-dependencies"):
        if wanted["clientside_function"] or '"here"' not in str(wanted["inputs"]):
            continue
        page = re.search(r'"page":"(\w+)"', wanted["output"])[1]
        yield json.dumps(body_of(wanted, f"/{page}?capture={capture}&layer=1")).encode()


BROKEN = [b"", b"{", b"[]", b"null", b'{"output": "x"}', b"[" * 50_000, b"\xff" * 100]
NO_REQUESTS = [b"GET / x HTTP/1.1\r\n\r\n", b"\x16\x03\x01\n", b"GET /layers HTTP/1.1\r\n\r\n"]


def requests_of(dashboard):
    """What clients ask: (its kind, its bytes)."""
    for page in ("layers", "maps", "signals", "weights", "compare", "runs"):
        yield "page", dashboard.get(f"/{page}")
    for number, capture in enumerate(identifiers(dashboard)):
        yield "values", dashboard.get(f"/values?capture={capture}&layer=2&zoom=0-20,0-20")
        yield "values", dashboard.get(f"/thumbnail.png?capture={capture}&layer=0")
        yield "values", dashboard.get(f"/data/maps.csv?capture={capture}&layer=1")
        bodies = list(callbacks(dashboard, capture))
        yield "callback", dashboard.post(bodies[number % len(bodies)])
    yield "page", dashboard.get("/data/runs.csv")
    for body in BROKEN:
        yield "broken", dashboard.post(body)
    for sent in NO_REQUESTS:
        yield "broken", sent
    yield "broken", dashboard.get("/nothing/here")
    yield "broken", dashboard.post(b"{}", path="/layers")


def identifiers(dashboard):
    """Ids of the captures, as the select of the page is told them."""
    (wanted,) = (
        it for it in dashboard.json("/_dash-dependencies") if "theme.forceColor" in it["output"]
    )
    body = body_of(wanted, "/maps", "")
    answer = dashboard.ask(dashboard.post(json.dumps(body).encode()))
    told = json.loads(answer.partition(b"\r\n\r\n")[2])["response"]
    options = told['{"field":"capture","type":"address"}']["data"]
    found = [option["value"] for option in options]
    assert len(found) == 12
    return found


def test_twenty_clients_are_answered_as_one_is(folder, record_property):
    dashboard = Dashboard(folder, files=FILES)
    try:
        asked = list(requests_of(dashboard))
        alone = answers_of_one(dashboard, [sent for _, sent in asked])
        settle(dashboard)
        before, memory = dashboard.counts(), dashboard.memory()

        until = time.monotonic() + SECONDS
        wrong, done = [], Counter()
        threads = [
            threading.Thread(target=client, args=(dashboard, n, asked, alone, until, wrong, done))
            for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        most, highest = before, memory
        while any(thread.is_alive() for thread in threads):
            most = tuple(map(max, most, dashboard.counts()))
            highest = max(highest, dashboard.memory())
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        settle(dashboard)
        after = dashboard.counts()
        figures = {
            "answers": dict(done),
            "wrong": len(wrong),
            "descriptors and threads": [before, most, after],
            "MiB": [memory >> 20, highest >> 20, dashboard.memory() >> 20],
        }
        print(json.dumps(figures))
        record_property("load", json.dumps(figures))
        assert wrong == []
        assert min(done[kind] for kind in ("page", "values", "callback", "broken", "half")) > 0
        assert most[0] < FILES
        assert after[0] <= before[0] + FILES // 4, "what is open beyond, captures may hold"
        assert after[1] <= before[1] + SLACK
        assert highest <= memory + GROWTH
    finally:
        out, err = dashboard.close()
    assert (out, err) == (b"", b""), "nothing went wrong that it would tell"


def answers_of_one(dashboard, requests):
    """What one client is answered, once that stays the same: a page of scores is whole when all of them are made."""
    last = None
    for _ in range(20):
        answers = [digest(dashboard.ask(sent)) for sent in requests]
        if answers == last:
            return answers
        last = answers
    pytest.fail("one client is never answered the same twice")


def client(dashboard, number, asked, alone, until, wrong, done):
    """Ask at random until the time is over, every tenth time half of it."""
    draw, halves, asks = random.Random(number), [], 0
    try:
        while time.monotonic() < until or asks < LEAST:
            asks += 1
            at = draw.randrange(len(asked))
            kind, sent = asked[at]
            if draw.random() < 0.1:
                half = dashboard.connect()
                half.sendall(sent[: draw.randrange(len(sent))][:-1])
                halves.append(half)
                done["half"] += 1
                if len(halves) > 2:
                    halves.pop(0).close()
                continue
            found = digest(dashboard.ask(sent))
            if found != alone[at]:
                wrong.append((kind, sent[:200], found))
            done[kind] += 1
    except OSError as error:
        wrong.append(("connection", repr(error), ""))
    finally:
        for half in halves:
            half.close()


def digest(answer):
    """An answer in short: its first line, and a hash of all of it."""
    return answer.partition(b"\r\n")[0], hashlib.sha256(answer).hexdigest()[:16]


def settle(dashboard):
    """Wait until the threads of connections have come to their end."""
    last = None
    for _ in range(100):
        time.sleep(0.1)
        now = dashboard.counts()
        if now == last:
            return
        last = now
