"""The server over its socket: what is no request, what is half sent, and how many connections there may be."""

import errno
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import MOST_BYTES, Access
from ssmlens_dashboard.serve import listen, server_on
from werkzeug.serving import ThreadedWSGIServer

LONG = 20.0  # seconds that a test waits for what must come


@contextmanager
def running(application, patience=LONG, here=None):
    """A server of an application, and its port."""
    with here or listen("127.0.0.1", 0) as here:
        server = server_on(here, application, patience)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, here.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture(scope="module")
def capture(tmp_path_factory, write_capture):
    return write_capture(tmp_path_factory.mktemp("served") / "one.h5", layers=1, tokens=5)


@pytest.fixture(scope="module")
def application(capture):
    """One that answers to any name, so that it can be served on any port."""
    return make_app([capture], Access("0.0.0.0")).server


@pytest.fixture(scope="module")
def port(capture):
    """The port of a server that answers to its own name only."""
    here = listen("127.0.0.1", 0)
    own = make_app([capture], Access(port=here.getsockname()[1])).server
    with running(own, here=here) as (_, port):
        yield port


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(LONG)
    return connection


def everything(connection):
    """All that comes until the other end closes."""
    parts = []
    with connection:
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def ask(port, sent, end=False):
    """(status, headers, body) of the answer to some bytes; None where the connection is closed without one."""
    connection = connect(port)
    connection.sendall(sent)
    if end:
        with suppress(OSError):  # the server may have answered and closed it before
            connection.shutdown(socket.SHUT_WR)
    answer = everything(connection)
    if not answer:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    told = dict(header.split(": ", 1) for header in headers)
    assert int(told["Content-Length"]) == len(body) or sent.startswith(b"HEAD")
    return int(line.split()[1]), told, body


def sound(port, path="/layers"):
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


HOST = b"Host: 127.0.0.1:1\r\n"
NO_REQUESTS = {
    "no method": (b"/layers\r\n\r\n", 400),
    "three words too many": (b"GET / a b HTTP/1.1\r\n\r\n", 400),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", 400),
    "a handshake of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
    "a script": (b"GET <script>alert(1)</script> FTP/1.1\r\n\r\n", 400),
    "a later version": (b"GET /layers HTTP/2.0\r\n\r\n", 505),
    "an early version": (b"GET /layers\r\n\r\n", 505),
    "an address that is too long": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    "an address that is none": (b"GET http://[::1 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a header that is too long": (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    "too many headers": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    "a length below zero": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
    "a length that is none": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1e3\r\n\r\n", 400),
    "a length of many digits": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        400,
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    "chunks": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "no host": (b"GET /layers HTTP/1.1\r\n\r\n", 400),
    "no host, as HTTP/1.0 may": (b"GET /layers HTTP/1.0\r\n\r\n", 400),
    "an empty host": (b"GET /layers HTTP/1.1\r\nHost:\r\n\r\n", 403),
    "another host": (b"GET /layers HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    "another host in the address": (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 403),
}


@pytest.mark.parametrize("case", NO_REQUESTS)
def test_what_is_no_request_is_refused_as_everything_else_is(port, case, capfd):
    sent, code = NO_REQUESTS[case]
    status, headers, body = ask(port, sent)
    assert status == code
    assert list(json.loads(body)) == ["error"]
    assert b"script" not in body
    assert headers["Content-Type"].startswith("application/json")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "ssmlens"
    assert capfd.readouterr() == ("", "")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(port):
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {MOST_BYTES * 8}\r\n\r\n"
    status, _, body = ask(port, head.encode() + b"x" * MOST_BYTES * 8)
    assert status == 413
    assert str(MOST_BYTES).encode() in body


def test_what_is_asked_for_by_its_head_has_no_body(port):
    status, headers, body = ask(port, sound(port).replace(b"GET", b"HEAD"))
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(ask(port, sound(port))[2])


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"GET /layers HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n",
        b"GET /layers HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nCoo",
        b"POST /_dash-update-component HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 9\r\n\r\n{}",
    ],
)
def test_a_request_that_its_client_left_half_sent_is_not_answered(port, sent):
    assert ask(port, sent.replace(b"PORT", str(port).encode()), end=True) is None


HALVES = [b"", b"G", b"GET /layers HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: b"]
HALVES += [b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{"]


@pytest.mark.parametrize("half", HALVES)
def test_what_is_half_sent_is_dropped(application, half):
    with running(application, patience=0.2) as (server, port):
        connection = connect(port)
        connection.sendall(half)
        everything(connection)  # ends: the server closes it
        assert ask(port, sound(port))[0] == 200
        wait_until(lambda: len(server.connections) == 0)


def test_what_comes_byte_by_byte_is_dropped_too(application):
    with running(application, patience=0.3) as (server, port):
        connection = connect(port)
        with suppress(ConnectionError):
            for _ in range(400):
                connection.sendall(b"a")
                time.sleep(0.05)
            pytest.fail("it goes on for ever")
        connection.close()
        wait_until(lambda: len(server.connections) == 0)


def test_an_answer_may_take_longer_than_a_request(application, monkeypatch):
    """Neither what takes long to make nor what is slowly taken is dropped like a request that does not come."""
    monkeypatch.setattr("ssmlens_dashboard.request_handler._PIECE", 1 << 10)
    with running(application, patience=0.4) as (_, port):
        whole = ask(port, sound(port, "/_dash-layout"))[2]
        slow = connect(port)
        slow.sendall(sound(port, "/_dash-layout"))
        time.sleep(1.0)
        assert everything(slow).endswith(whole)


def wait_until(done):
    for _ in range(1000):
        if done():
            return
        time.sleep(0.02)
    pytest.fail("it did not come")


@pytest.fixture
def few(monkeypatch):
    """Eight connections at most."""
    monkeypatch.setattr("ssmlens_dashboard.connections.share", lambda: 8)
    return 8


def test_connections_are_bounded_and_the_one_waited_for_longest_goes(application, few):
    with running(application) as (server, port):
        before = threading.active_count()
        idle = []
        for number in range(3 * few):
            idle.append(connect(port))
            idle[-1].sendall(b"GET /layers HTTP/1.1\r\n")
            wait_until(lambda number=number: len(server.connections) == min(number + 1, few))
            assert threading.active_count() - before <= few
        assert ask(port, sound(port))[0] == 200, "who asks properly is answered"
        for connection in idle[: 2 * few]:
            assert connection.recv(1) == b""
        for connection in idle:
            connection.close()
        wait_until(lambda: len(server.connections) == 0)
        wait_until(lambda: threading.active_count() == before)


def test_where_all_are_being_answered_another_is_told_so(application, few, monkeypatch):
    begun, go_on = threading.Semaphore(0), threading.Event()
    with running(application) as (server, port):

        def slow(environ, start_response, app=server.app):
            begun.release()
            assert go_on.wait(LONG)
            return app(environ, start_response)

        monkeypatch.setattr(server, "app", slow)
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(port, sound(port))[0]))
            for _ in range(few)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=LONG)
        status, headers, body = ask(port, sound(port), end=True)
        assert status == 503
        assert json.loads(body) == {"error": "too many requests at once; try again"}
        assert headers["X-Content-Type-Options"] == "nosniff"
        go_on.set()
        for thread in threads:
            thread.join(LONG)
        assert answers == [200] * few, "none of those was cut"


def test_nothing_spins_where_no_connection_can_be_taken_up(application, monkeypatch):
    with running(application) as (_, port):
        tries, refused = [], threading.Event()
        accept = ThreadedWSGIServer.get_request

        def exhausted(self):
            tries.append(None)
            if refused.is_set():
                return accept(self)
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(ThreadedWSGIServer, "get_request", exhausted)
        connection = connect(port)  # the system takes it up; the server cannot
        connection.sendall(sound(port))
        time.sleep(1.2)
        assert 1 <= len(tries) <= 10
        refused.set()
        assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_makes_room_where_no_file_can_be_opened(application, monkeypatch):
    with running(application) as (server, port):
        idle = connect(port)
        wait_until(lambda: len(server.connections) == 1)
        accept = ThreadedWSGIServer.get_request

        def exhausted(self):
            if len(server.connections):
                raise OSError(errno.EMFILE, "Too many open files")
            return accept(self)

        monkeypatch.setattr(ThreadedWSGIServer, "get_request", exhausted)
        assert ask(port, sound(port))[0] == 200
        assert idle.recv(1) == b""
        idle.close()


def test_a_closed_server_lets_go_of_all(application):
    with running(application) as (_, port):
        idle = connect(port)
        assert ask(port, sound(port))[0] == 200
    assert idle.recv(1) == b""
    idle.close()


def test_a_failure_below_the_application_is_one_line_errors(application, monkeypatch, caplog):
    def fail(*_):
        raise MemoryError("secret")

    with running(application) as (server, port):
        monkeypatch.setattr(server, "app", fail)
        status, headers, body = ask(port, sound(port))
        assert status == 500
        assert b"secret" not in body
        assert headers["X-Frame-Options"] == "DENY"
    assert caplog.text.count("\n") == 1
    assert "MemoryError: secret" in caplog.text
