"""`ssmlens figure`: every form of file, whole or not at all; bad options in one line."""

import io
import shutil
import sys
import typing

import pytest
import xarray as xr

import ssmlens
from ssmlens.cli.figure import View
from ssmlens.plot.catalogue import FIGURES
from ssmlens.plot.file_forms import as_file
from ssmlens.plot.finish import DEFAULT
from ssmlens.plot.selection import Selection

HOSTILE = "</script><img src=x onerror=alert(1)><b>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def capture(copies):
    return copies("copy-mamba1-mimetic", 17)


@pytest.fixture
def figure(cli, capture, tmp_path):
    """figure("--view", "mask", out="m.html"): the file, once the command has said its name."""

    def make(*options, out):
        path = tmp_path / out
        said = cli("figure", capture, "--layer", 3, *options, "--out", path)
        assert (said.code, said.err, said.out) == (0, "", f"{path}\n")
        assert [file.name for file in tmp_path.iterdir()] == [out]
        return path

    return make


def test_the_views_of_the_command_are_the_figures_there_are():
    assert typing.get_args(View) == tuple(FIGURES)


def test_numbers_as_csv_and_netcdf_without_a_browser(figure, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    rows = figure("--view", "lags", out="lags.csv").read_text().splitlines()
    assert rows[0] == "lag,energy"
    assert len(rows) > 20


def test_netcdf_holds_what_is_drawn(figure, capture):
    path = figure("--channel", 5, "--zoom", "3-20,0-9", out="channel.nc")
    with xr.open_dataset(io.BytesIO(path.read_bytes()), engine="h5netcdf") as data:
        values = data["value"].values
    with ssmlens.open_capture(capture) as opened:
        exact = opened.layer(3).channel_map(5)
    assert (values == exact[3:20, 0:9]).all()


def test_html_is_one_page_that_runs_nothing_of_the_file(capture):
    with ssmlens.open_capture(capture) as opened:
        opened.header.attributes["model"] = HOSTILE
        opened.header.token_strings[0][:] = [HOSTILE] * len(opened.header.token_strings[0])
        what = Selection(layer=opened.layer(3))
        page = as_file("steps", what, ".html", DEFAULT, (None, None), HOSTILE).decode()
    figure = page.partition("Plotly.newPlot")[2]
    assert figure.count("<") == figure.count("</script>") + figure.count("</div>") + 2  # body, html
    assert figure.count("</script>") == 1
    assert "onerror" in figure  # as text


@needs_chromium
@pytest.mark.parametrize(
    ("form", "magic"), [("svg", b"<svg"), ("pdf", b"%PDF-"), ("png", b"\x89PNG")]
)
def test_images(figure, form, magic):
    pytest.importorskip("kaleido")
    made = figure(
        "--view", "half-lives", "--theme", "dark", "--width", 500, out=f"f.{form}"
    ).read_bytes()
    assert made.startswith(magic)
    if form == "svg":
        text = made.decode()
        assert 'width="500"' in text
        assert "Layer 3: half-lives" in text
        assert "rgb(23, 27, 34)" in text
    if form == "png":
        assert made[16:24] == (1000).to_bytes(4, "big") + (920).to_bytes(4, "big")


def test_limit_title_and_size_are_the_readers(figure):
    """Two figures of one limit have the same colours; a title can be chosen or left out; a size has a unit."""
    pages = [
        figure(*options, "--width", "10cm", "--overwrite", out="m.html").read_text()
        for options in (["--limit", 2.5, "--title", "mine"], ["--limit", 2.5, "--title", ""], [])
    ]
    spec = [page.partition("Plotly.newPlot")[2] for page in pages]
    assert all('"width":378' in text for text in spec)  # 10 / 2.54 * 96
    assert ['"text":"mine"' in text for text in spec] == [True, False, False]
    assert ["Layer 3: attention map" in text for text in spec] == [False, False, True]
    ticks = [text.partition('"ticktext":')[2].partition("]")[0] for text in spec]
    assert ticks[0] == ticks[1] != ticks[2]
    assert '"2"' in ticks[0]


@pytest.fixture
def refused(cli, capture, tmp_path):
    """refused(2, "--layer", 9): the line, and that nothing was written."""

    def line(code, *options, out="f.html"):
        path = tmp_path / out
        before = path.exists()
        said = cli("figure", capture, "--out", path, *options)
        assert said.code == code
        assert path.exists() == before
        return said.complaint

    return line


def test_without_kaleido_it_says_how_to_install_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert "pip install 'ssmlens[export]'" in refused(2, "--layer", 3, out="f.svg")


def test_without_a_browser_it_says_what_to_install(refused, monkeypatch):
    kaleido = pytest.importorskip("kaleido")
    from kaleido.errors import ChromeNotFoundError

    def fails(*_, **__):
        raise ChromeNotFoundError("none")

    monkeypatch.setattr(kaleido, "calc_fig_sync", fails)
    assert "apt-get install chromium" in refused(2, "--layer", 3, out="f.svg")


def test_a_browser_that_fails_is_one_line(refused, monkeypatch):
    kaleido = pytest.importorskip("kaleido")

    def fails(*_, **__):
        raise RuntimeError("it\nbroke")

    monkeypatch.setattr(kaleido, "calc_fig_sync", fails)
    assert "did not draw the figure: it broke" in refused(1, "--layer", 3, out="f.svg")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layer", 9], "has no layer 9; it has 0-3"),
        (["--layer", 3, "--prompt", 7], "prompt 7 is out of range"),
        (["--layer", 3, "--prompt", -1], "prompt -1 is out of range"),
        (["--layer", 3, "--channel", 384], "has 384 channels: no 384"),
        (["--layer", 3, "--channel", -1], "has 384 channels: no -1"),
        (["--layer", 3, "--view", "mask", "--channel", 3], "--channel goes with"),
        (["--layer", 3, "--zoom", "5-1,0-3"], "--zoom 5-1,0-3 is not a rectangle"),
        (["--layer", 3, "--zoom", ""], "--zoom is not a rectangle"),
        (["--layer", 3, "--zoom", "0-500,0-3"], "ends after the 36 tokens"),
        (["--layer", 3, "--width", 5], "100 to 10000 pixels"),
        (["--layer", 3, "--width", "9in9"], "has a unit such as 9cm"),
        (["--layer", 3, "--width", "nanpx"], "has a unit such as 9cm"),
        (["--layer", 3, "--group", 1], "has 1 groups: no 1"),
        (["--layer", 3, "--view", "softmax"], "layer 3 has no softmax; it has map, mask, channel"),
        (["--layer", 3, "--view", "maps"], "maps"),
        ([], "--layer"),
    ],
)
def test_bad_options(refused, options, told):
    assert told in refused(2, *options)


@pytest.mark.parametrize("out", ["f.gif", "f", "f.html.gz"])
def test_forms_that_are_not_there(refused, out):
    assert "ends in none of .svg, .png, .pdf, .html, .csv, .nc" in refused(2, "--layer", 3, out=out)


def test_a_file_that_exists_is_replaced_only_when_asked(refused, figure, tmp_path):
    (tmp_path / "f.csv").write_text("mine")
    assert "exists; pass --overwrite" in refused(2, "--layer", 3, out="f.csv")
    assert (tmp_path / "f.csv").read_text() == "mine"
    figure("--view", "lags", "--overwrite", out="f.csv")
    assert (tmp_path / "f.csv").read_text().startswith("lag,")


def test_a_folder_that_is_not_there(refused):
    assert "the folder does not exist" in refused(1, "--layer", 3, "--view", "lags", out="no/f.csv")
