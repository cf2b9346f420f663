"""The wheel alone, in a bare environment: it records, captures, ranks and opens; the dashboard says what it lacks."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import ssmlens
from ssmlens.models.shipped import data_folder

pytestmark = pytest.mark.slow

MODEL = "copy-mamba1-mimetic"
PROMPT = "abcdefg|abcdefg"
USE = f"""
import json, torch, ssmlens

model = ssmlens.load_model("{MODEL}")
with ssmlens.recording(model) as rec, torch.no_grad():
    model(torch.arange(6)[None])
cap = ssmlens.capture(model, ["{PROMPT}"], out="run.h5")
opened = ssmlens.open_capture("run.h5")
ranked = ssmlens.rank_layers(opened, by="diagonal_sharpness")
print(json.dumps({{
    "from": ssmlens.__file__,
    "d_inner": rec[3].operands.x.shape[-2],
    "closure": rec[3].closure_error,
    "layers": list(opened.layers),
    "map": opened.layer(3).attention_map(0).tolist(),
    "first": int(ranked.rows[0].layer),
    "problems": ssmlens.verify("run.h5"),
}}))
"""


@pytest.fixture(scope="module")
def environment(install):
    return install("")


@pytest.fixture(scope="module")
def used(environment, tmp_path_factory):
    """What a user's Python says after recording, capturing, ranking and opening; and the folder it worked in."""
    here = tmp_path_factory.mktemp("here")
    return json.loads(environment.run("python", "-c", USE, here=here).stdout), here


def test_only_the_base_is_there_and_fits_together(environment, tmp_path):
    others = {"dash", "plotly", "kaleido", "transformers", "ray", "mamba_ssm", "pytest"}
    assert environment.packages() & {"ssmlens", "torch", *others} == {"ssmlens", "torch"}
    environment.run("python", "-m", "pip", "check", here=tmp_path)


def test_a_user_records_captures_ranks_and_opens(environment, used):
    """With the newest versions of everything it is what the versions of this environment make."""
    said, _ = used
    assert said["from"].startswith(str(environment.folder))
    assert said["closure"] < 1e-4
    assert said["problems"] == []
    assert (said["layers"], said["first"]) == ([0, 1, 2, 3], 3), "layer 3 copies"
    inner = load_file(data_folder() / "models" / MODEL / "model.safetensors")
    assert said["d_inner"] == inner["backbone.layers.3.mixer.D"].shape[0]
    cap = ssmlens.capture(ssmlens.load_model(MODEL), [PROMPT], None)
    here = cap.layer(3).attention_map(0)
    np.testing.assert_allclose(said["map"], here, rtol=1e-3, atol=1e-4 * np.abs(here).max())


def test_commands_read_what_was_captured(environment, used):
    _, here = used
    ranked = environment.run("ssmlens", "rank-layers", "run.h5", here=here)
    assert "closure_error" in ranked.stdout
    environment.run("ssmlens", "verify", "run.h5", here=here)


def test_the_dashboard_says_which_extra_to_install(environment, tmp_path):
    done = environment.run("ssmlens", "dashboard", here=tmp_path, code=2)
    assert done.stdout == ""
    assert (
        done.stderr == "ssmlens: ssmlens dashboard needs dash: pip install 'ssmlens[dashboard]'\n"
    )
