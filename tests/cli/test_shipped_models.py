"""What the command line must show of the four shipped models."""

import numpy as np
import pytest
from oracles import maps_by_definition

from ssmlens.store import open_capture

COPYING = {"copy-mamba1-mimetic": 3, "copy-mamba2-default": 1, "copy-mamba2-mimetic": 3}
SHIPPED = ["copy-mamba1-default", *COPYING]


@pytest.mark.parametrize("length", [17, 30, 40])
@pytest.mark.parametrize("model", COPYING)
def test_the_copying_layer_is_ranked_first_and_its_lag_is_the_string(cli, copies, model, length):
    ranking = cli("rank-layers", copies(model, length), "--json").json
    assert ranking["by"] == ["copy_score"]
    assert sorted(row["layer"] for row in ranking["layers"]) == [0, 1, 2, 3]
    first, second = ranking["layers"][:2]
    assert (first["rank"], first["layer"]) == (1, COPYING[model])
    assert first["scores"]["sharpest_lag"] == length
    assert first["scores"]["copy_score"] > 4 * second["scores"]["copy_score"]


@pytest.mark.parametrize("model", SHIPPED)
def test_closure_maps_and_masks_of_every_layer(cli, copies, model):
    path = copies(model, 17)
    told = cli("info", path, "--json").json
    assert [layer["layer"] for layer in told["layers"]] == [0, 1, 2, 3]
    assert all(layer["closure_error"] <= 1e-5 for layer in told["layers"])
    with open_capture(path) as capture:
        assert capture.length.tolist() == [36, 36]
        for index in capture.layers:
            layer = capture.layer(index)
            assert (layer.read("closure_error") <= 1e-5).all()
            whole, mask = maps_by_definition(*(layer.read(n, 1) for n in ("delta", "A", "B", "C")))
            for name, exact in (("attention_map", whole.mean(0)), ("attention_mask", mask)):
                apart = np.linalg.norm(layer.read(name, 1) - exact)
                assert apart <= 1e-5 * np.linalg.norm(exact)
            own = layer.read("channel_map", 1)
            exact = whole[layer.read("channel")]
            assert np.linalg.norm(own - exact) <= 1e-5 * np.linalg.norm(exact)
    assert cli("verify", path).code == 0


def test_targets_and_letters_are_in_the_file(copies):
    with open_capture(copies("copy-mamba2-default", 17)) as capture:
        assert capture.prompt_kinds == ["copy", "copy"]
        letters = capture.token_strings(0)
        assert letters[:17] == letters[18:35]
        assert "".join(letters[:-1]) + "<end>" == capture.prompt_texts[0]
        assert capture.target[0, 17:34].tolist() == list(range(17))
        assert (np.delete(capture.target[0], range(17, 34)) == -1).all()
