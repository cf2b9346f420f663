import json
from collections import Counter

from dash._utils import split_callback_id
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access


def test_a_control_is_set_by_one_callback_and_never_by_a_view(copying):
    app = make_app([copying], Access())
    times, by_server = Counter(), set()
    for callback in app._callback_list:
        outputs = [] if callback["no_output"] else split_callback_id(callback["output"])
        for output in outputs if isinstance(outputs, list) else [outputs]:
            name = output["id"], output["property"]
            times[name] += 1
            if not callback["clientside_function"]:
                by_server.add(name)
    controls = {
        json.loads(identifier)["field"]: (identifier, name)
        for identifier, name in times
        if identifier.startswith('{"field"') and name == "value"
    }
    assert controls.keys() >= {"view", "scale", "channel", "limits", "sort", "group"}
    assert [field for field, control in controls.items() if times[control] > 1] == []
    set_by_server = {field for field, control in controls.items() if control in by_server}
    assert set_by_server <= {"capture", "layer", "prompt"}, "those above every page"
