"""Who may ask, and for what: Host, Origin, token, paths, methods, headers, and settings from outside."""

import os

import pytest
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access

HERE = "127.0.0.1:8050"


@pytest.fixture(scope="module")
def client(copying, client_of):
    return client_of(copying)


def refused(answer, *codes):
    assert answer.status_code in codes, answer.data[:200]
    assert answer.is_json
    assert list(answer.json) == ["error"]
    assert "\n" not in answer.json["error"]
    assert b"Traceback" not in answer.data
    return True


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in (HERE, "localhost:8050", "[::1]:8050", "LOCALHOST:8050")),
        *(
            (host, 403)
            for host in (
                "evil.example:8050",
                "127.0.0.1.evil.example:8050",
                "127.0.0.1",
                "127.0.0.1:8051",
            )
        ),
        *(
            (host, 403)
            for host in ("localhost.:8050", "", "localhost:8050@evil.example", "2130706433:8050")
        ),
    ],
)
def test_only_this_servers_own_names_are_answered(client, host, status):
    answer = client.get("/layers", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        refused(answer, 403)


@pytest.mark.parametrize(
    ("origin", "admitted"),
    [
        ("http://127.0.0.1:8050", True),
        *(
            (o, False)
            for o in (
                None,
                "null",
                "",
                "http://evil.example",
                "http://127.0.0.1:8051",
                "http://127.0.0.1",
            )
        ),
        *(
            (o, False)
            for o in (
                "http://localhost:8050",
                "file://",
                "http://127.0.0.1:8050.evil.example",
                "//127.0.0.1:8050",
            )
        ),
        *((o, False) for o in ("http://127.0.0.1:8050@evil.example", "ftp://127.0.0.1:8050")),
    ],
)
def test_callbacks_are_asked_from_here(client, origin, admitted):
    headers = {} if origin is None else {"Origin": origin}
    answer = client.post("/_dash-update-component", json={}, headers=headers)
    refused(answer, 400 if admitted else 403)


TRICKS = [
    "/../etc/passwd",
    "/assets/../app.py",
    "/assets/..%2fapp.py",
    "/assets/%2e%2e/app.py",
    "/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/assets/....//app.py",
    "/assets/..\\app.py",
    "/assets/..%5capp.py",
    "/assets//etc/passwd",
    "/assets/%00",
    "/assets/style.css%00.js",
    "/assets/C:/Windows/win.ini",
    "/assets/~root/.ssh/id_rsa",
    "/assets/__init__.py",
    "/_dash-component-suites/dash/../../../../etc/passwd",
    "/_dash-component-suites/dash/dash.py",
    "/_dash-component-suites/os/os.py",
    "/_dash-component-suites/ssmlens_dashboard/app.py",
    "/_dash-component-suites/dash/..%2f..%2fetc%2fpasswd",
    "/_dash-component-suites/dash/deps/../dash.py",
    "/_dash-component-suites/../dash/dash.py",
    "/_reload-hash",
    "/_mcp",
    "/_dash-ws-callback",
    "/_alive_x",
    "/_dash_startup_route/x",
    "/console",
    "/?__debugger__=yes&cmd=resource&f=debugger.js".replace("/?", "/x?"),
    "/.git/config",
    "/.env",
    "/proc/self/environ",
    "/etc/passwd",
    "//etc/passwd",
    "/file:///etc/passwd",
    "/static/x",
    "/admin",
    "/maps/../../etc/passwd",
    "/maps/etc",
    "/maps%2f..",
    "/data/../../etc/passwd",
    "/data/maps.csv/../../x",
    "/data/..%2f..%2fetc%2fpasswd",
    "/data/etc.passwd",
    "/data/maps.h5",
    "/data/maps.py",
    "/data/maps.",
    "/data/.csv",
    "/data/%2e%2e.csv",
    "/data//etc/passwd.csv",
    "/data/maps%00.csv",
    "/thumbnail.png/../../etc/passwd",
    "/thumbnail.png%00",
    "/thumbnail.svg",
    "/values/../x",
    "/values/etc",
    "/values",
    "/layers.h5",
    "/demo/report.html",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..;/etc/passwd",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_path_leads_out(client, path):
    refused(client.get(path), 400, 404)


def test_there_are_enough_tricks():
    assert len(set(TRICKS)) >= 60


@pytest.mark.parametrize("name", ["capture", "layer", "prompt", "zoom", "against", "runs", "of"])
@pytest.mark.parametrize(
    "value", ["../../etc/passwd", "/etc/passwd", "%2e%2e%2fetc", "x.h5", "file:///etc/passwd"]
)
def test_no_parameter_is_a_path(client, copying, name, value):
    answer = client.get(f"/values?layer=0&zoom=0-2,0-2&{name}={value}")
    assert answer.status_code in (
        200,
        400,
        404,
    )  # what is not understood falls back to what there is
    assert b"root:" not in answer.data
    assert str(copying.parent).encode() not in answer.data


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", ["/layers", "/values", "/_dash-layout"])
def test_there_is_nothing_to_write_to(client, method, path):
    refused(client.open(path, method=method, headers={"Origin": f"http://{HERE}"}), 405)


def test_every_answer_carries_the_headers_that_keep_others_out(client):
    for path in ("/layers", "/_dash-layout", "/nothing", "/assets/style.css"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


def test_nothing_is_loaded_from_elsewhere(client):
    page = client.get("/layers").text
    assert "http://" not in page.replace("http://www.w3.org", "")
    for source in page.split('src="')[1:] + page.split('href="')[1:]:
        assert source.startswith(("/", "data:image/")), source[:80]


def test_the_first_page_keeps_what_was_asked(client):
    answer = client.get("/?layer=2&theme=dark&nonsense=<script>")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/layers?layer=2&theme=dark"


def test_a_body_that_is_too_large_is_refused(client):
    answer = client.post(
        "/_dash-update-component", data=b"x" * 300_000, headers={"Origin": f"http://{HERE}"}
    )
    refused(answer, 413, 415)
    big = b'{"output": "' + b"x" * 300_000 + b'"}'
    told = {"Origin": f"http://{HERE}", "Content-Type": "application/json"}
    refused(client.post("/_dash-update-component", data=big, headers=told), 413)


class TestToken:
    """With another --host, readers bring a token."""

    ACCESS = Access("0.0.0.0", 8050, "s3cret")

    @pytest.fixture
    def client(self, copying, client_of):
        return client_of(copying, self.ACCESS)

    @pytest.mark.parametrize(
        "path",
        ["/layers", "/_dash-layout", "/values", "/assets/style.css", "/?token=S3cret", "/?token="],
    )
    def test_nothing_without_it(self, client, path):
        refused(client.get(path), 403)

    def test_the_token_becomes_a_cookie_and_leaves_the_url(self, client):
        answer = client.get("/maps?token=s3cret&layer=2")
        assert answer.status_code == 200
        assert 'url=/maps?layer=2"' in answer.text
        assert "s3cret" not in answer.text
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert client.get("/maps?layer=2").status_code == 200

    def test_a_wrong_cookie_is_refused(self, client):
        client.set_cookie("ssmlens-8050", "s3cre", domain="127.0.0.1")
        refused(client.get("/layers"), 403)

    @pytest.mark.parametrize("name", ["ssmlens", "ssmlens-8051"])
    def test_a_cookie_of_another_name_counts_for_nothing(self, client, name):
        client.set_cookie(name, "s3cret", domain="127.0.0.1")
        refused(client.get("/layers"), 403)
        client.set_cookie(name, "other", domain="127.0.0.1")
        client.get("/?token=s3cret")
        assert client.get("/layers").status_code == 200
        assert client.get_cookie(name, domain="127.0.0.1").value == "other", "it is left alone"

    def test_dashboards_of_two_ports_do_not_log_each_other_out(self, copying, client_of):
        first = client_of(copying, self.ACCESS)
        second = client_of(copying, Access("0.0.0.0", 8051, "0ther"))
        second._cookies = first._cookies  # one browser: cookies are shared by all ports of a host
        there = {"Host": "127.0.0.1:8051"}
        assert first.get("/?token=s3cret").status_code == 200
        assert second.get("/?token=0ther", headers=there).status_code == 200
        assert first.get("/layers").status_code == 200
        assert second.get("/layers", headers=there).status_code == 200

    def test_a_named_host_answers_to_that_name_only(self, copying, client_of):
        client = client_of(copying, Access("example.org", 8050, "s3cret"))
        assert client.get("/?token=s3cret", headers={"Host": "example.org:8050"}).status_code == 200
        refused(client.get("/?token=s3cret"), 403)

    def test_the_address_holds_it(self):
        assert Access().address == "http://127.0.0.1:8050/"
        assert self.ACCESS.address.endswith(":8050/?token=s3cret")


class TestIPv6:
    """An IPv6 --host, with the brackets of a URL or without."""

    @pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
    def test_this_computer_needs_no_token_and_no_other_name(self, copying, client_of, host):
        access = Access(host)
        assert access.local
        assert access.address == "http://[::1]:8050/"
        client = client_of(copying, access)
        for name, status in (
            ("[::1]:8050", 200),
            ("localhost:8050", 200),
            ("[::1]:8051", 403),
            ("::1:8050", 403),
            ("[::2]:8050", 403),
            ("[::ffff:7f00:1]:8050", 403),
        ):
            assert client.get("/layers", headers={"Host": name}).status_code == status, name

    def test_another_address_is_named_in_brackets_and_needs_the_token(self, copying, client_of):
        access = Access("2001:DB8::0:7", token="s3cret")
        assert not access.local
        assert access.address == "http://[2001:db8::7]:8050/?token=s3cret"
        client = client_of(copying, access)
        here = {"Host": "[2001:DB8::7]:8050"}
        refused(client.get("/layers", headers=here), 403)
        assert client.get("/?token=s3cret", headers=here).status_code == 200
        refused(client.get("/?token=s3cret", headers={"Host": "[::1]:8050"}), 403)

    @pytest.mark.parametrize("host", ["::", "[::]"])
    def test_every_address_needs_the_token_whatever_its_name(self, copying, client_of, host):
        client = client_of(copying, Access(host, token="s3cret"))
        there = {"Host": "[2001:db8::7]:8050"}
        refused(client.get("/layers", headers=there), 403)
        assert client.get("/?token=s3cret", headers=there).status_code == 200


SETTINGS = {
    "DASH_DEBUG": "true",
    "dash_debug": "true",
    "DASH_UI": "true",
    "DASH_PROPS_CHECK": "true",
    "DASH_HOT_RELOAD": "true",
    "DASH_PRUNE_ERRORS": "true",
    "DASH_SERVE_DEV_BUNDLES": "true",
    "DASH_MCP_ENABLED": "true",
    "DASH_URL_BASE_PATHNAME": "/elsewhere/",
    "DASH_REQUESTS_PATHNAME_PREFIX": "/elsewhere/",
    "DASH_APP_NAME": "elsewhere",
    "DASH_ASSETS_EXTERNAL_PATH": "http://evil.example/",
    "DASH_COMPRESS": "true",
    "FLASK_DEBUG": "1",
    "FLASK_ENV": "development",
}


def test_nothing_can_be_switched_on_from_outside(monkeypatch, copying):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    app = make_app([copying], Access())
    client = app.server.test_client()
    headers = {"Host": HERE}
    assert not app.server.debug
    page = client.get("/layers", headers=headers).text
    assert "evil.example" not in page
    assert '"ui":false' in page
    assert "elsewhere" not in page
    for path in ("/_mcp", "/_reload-hash", "/elsewhere/layers"):
        refused(client.get(path, headers=headers), 404)
    assert {
        name: os.environ[name] for name in SETTINGS
    } == SETTINGS  # and others' settings are left alone
