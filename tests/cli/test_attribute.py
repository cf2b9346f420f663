"""`ssmlens attribute`: text, JSON, figure and numbers; bad input in one line."""

import pytest
import xarray as xr

import ssmlens
from ssmlens.store.attribution_file import is_attribution, open_attribution

MODEL = ("--model", "copy-mamba2-mimetic", "--device", "cpu")
PROMPT = ("--prompt", "abcdefgh|abc")


@pytest.fixture(scope="module")
def model():
    return ssmlens.load_model("copy-mamba2-mimetic")


def test_the_copied_letter_comes_from_the_letter(cli, model):
    said = cli("attribute", *MODEL, *PROMPT)
    assert said.code == 0
    found = ssmlens.attribute(model, "abcdefgh|abc")
    assert said.out.startswith(f"logit {found.attrs['logit']:.6g} of 'd' (6) at position 11\n")
    assert f"off by {found.attrs['closure']:.1e} of the largest logit" in said.out
    (copying,) = (line for line in said.out.splitlines() if line.startswith("3 mamba "))
    assert copying.split()[3:5] == ["3", "d"]


def test_json_is_what_attribute_returns(cli, model):
    words = ("--token", "d", "--against", "4", "--position", "-2", "--taps", "--json")
    data = cli("attribute", *MODEL, *PROMPT, *words).json
    found = ssmlens.attribute(model, "abcdefgh|abc", -2, (6, 4), taps=True)
    assert data["token"] == 6
    assert data["against"] == 4
    assert data["against_text"] == "b"
    assert data["position"] == 10
    assert data["closure"] == pytest.approx(found.attrs["closure"], abs=1e-6)
    assert [term["term"] for term in data["terms"]] == found["term"].values.tolist()
    values = [term["value"] for term in data["terms"]]
    assert values == pytest.approx(found["value"].values.tolist(), abs=1e-5)
    assert sum(values) == pytest.approx(data["logit"], abs=1e-4)
    rows = {term["term"]: term["by_source"] for term in data["terms"] if "by_source" in term}
    assert list(rows) == found["mixer"].values.tolist()
    for label, row in rows.items():
        assert row == pytest.approx(found["by_source"].sel(mixer=label).values.tolist(), abs=1e-5)


def test_token_ids_instead_of_text(cli):
    by_text = cli("attribute", *MODEL, "--prompt", "ab|", "--json").json
    by_ids = cli("attribute", *MODEL, "--prompt", "3 4,1", "--tokens", "--json").json
    assert by_ids == by_text


def test_a_figure_and_the_numbers(cli, tmp_path):
    html = cli("attribute", *MODEL, *PROMPT, "--out", "f.html", "--json")
    assert html.json["out"] == "f.html"
    assert "after token 11: " in (tmp_path / "f.html").read_text(encoding="utf-8")
    assert cli("attribute", *MODEL, *PROMPT, "--out", "n.nc").code == 0
    with xr.open_dataset(tmp_path / "n.nc", engine="h5netcdf") as stored:
        assert stored["by_head"].dims == ("mixer", "head")
        assert float(stored["value"].sum()) == pytest.approx(stored.attrs["sum"])
    again = cli("attribute", *MODEL, *PROMPT, "--out", "n.nc")
    assert again.complaint == "n.nc exists; pass --overwrite, or choose another --out"
    assert cli("attribute", *MODEL, *PROMPT, "--out", "n.nc", "--overwrite").code == 0


def test_what_the_dashboard_shows(cli, tmp_path, model):
    assert cli("attribute", *MODEL, *PROMPT, "--out", "a.json").code == 0
    assert is_attribution(tmp_path / "a.json")
    stored = open_attribution(tmp_path / "a.json")
    found = ssmlens.attribute(model, "abcdefgh|abc")
    xr.testing.assert_allclose(stored["by_source"], found["by_source"], atol=1e-5)
    assert stored.attrs["model"] == "copy-mamba2-mimetic"
    assert stored.attrs["prompt"] == "abcdefgh|abc"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prompt", "ab#"), "'#' is not a token of this model"),
        (("--prompt", ""), "prompt 0 ('') is empty"),
        ((*PROMPT, "--token", "zz"), "'zz' is 2 tokens of this model; give one token, or its id"),
        ((*PROMPT, "--token", "99"), "--token 99 is out of range: there are logits of 0..31"),
        ((*PROMPT, "--against", "z"), "--against needs --token"),
        ((*PROMPT, "--position", "12"), "--position 12 is out of range: the prompt has 12 tokens"),
        (
            (*PROMPT, "--out", "f.txt"),
            "--out f.txt ends in none of .svg, .png, .pdf, .html, .nc, .json",
        ),
        (("--prompt", "3 x", "--tokens"), "--prompt '3 x' is not a list of token ids"),
    ],
)
def test_bad_input(cli, words, says):
    said = cli("attribute", *MODEL, *words)
    assert said.code == 2
    assert said.complaint.startswith(says)
