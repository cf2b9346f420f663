"""`ssmlens.plot.attribution`, from terms whose numbers are known."""

import numpy as np
import pytest
import xarray as xr

import ssmlens
from ssmlens.errors import UsageError

HOSTILE = "<b>a</b>"


def terms(sources=4, strings=None):
    by_source = np.arange(2 * sources, dtype=float).reshape(2, sources) - 3
    position = sources - 1
    data = xr.Dataset(
        {
            "value": ("term", [0.5, *by_source.sum(1), -2.0, 0.25]),
            "by_source": (("mixer", "source"), by_source),
        },
        coords={
            "term": ["embedding", "0 mamba", "1 delta rule", "1 mlp", "head bias"],
            "mixer": ["0 mamba", "1 delta rule"],
            "kind": ("term", ["embedding", "mamba", "delta rule", "mlp", "bias"]),
        },
        attrs={"position": position, "token": 7, "against": -1, "logit": 3.25},
    )
    return data if strings is None else data.assign_coords(token_string=("source", strings))


def bars(figure):
    over_text, whole = (trace for trace in figure.data if trace.type == "bar")
    return np.asarray(over_text.y, float), np.asarray(whole.x, float)


@pytest.mark.parametrize("sources", [1, 4, 300])
def test_bars_over_the_text_sum_the_terms_of_each_token(sources):
    data = terms(sources)
    over_text, whole = bars(ssmlens.plot.attribution(data))
    wanted = data["by_source"].values.sum(0)
    wanted[-1] += 0.5 - 2.0  # the embedding and the MLP stand at the position, a bias at no token
    np.testing.assert_allclose(over_text, wanted)
    np.testing.assert_allclose(whole, data["value"])


def test_cells_are_terms_by_sources():
    figure = ssmlens.plot.attribution(terms())
    (cells,) = (np.asarray(t.z, float) for t in figure.data if t.type == "heatmap")
    assert cells.shape == (5, 4)
    np.testing.assert_allclose(cells[1:3], terms()["by_source"])
    assert np.isnan(cells[4]).all()
    assert cells[0, 3] == 0.5
    assert figure.layout.yaxis2.ticktext[0] == "embedding"


def test_what_stands_on_it():
    figure = ssmlens.plot.attribution(terms(2, [HOSTILE, "z"]), theme="dark", size=(700, "10cm"))
    assert figure.layout.title.text == "Logit of 7 after token 1: 3.25"
    assert figure.layout.xaxis2.ticktext[0] == "0 &lt;b&gt;a&lt;/b&gt;"
    assert figure.layout.width == 700
    data = terms()
    data.attrs |= {"token_text": "<i>", "against": 4, "against_text": " "}
    title = ssmlens.plot.attribution(data).layout.title.text
    assert title == "Logit of '&lt;i&gt;' less '·' after token 3: 3.25"
    assert ssmlens.plot.attribution(data, title=None).layout.title.text is None


def test_nothing_split_by_source_is_one_line():
    with pytest.raises(UsageError, match="no term of this logit is split by source"):
        ssmlens.plot.attribution(terms().drop_vars("by_source"))
