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
    assert controls.keys() >= {"capture", "layer", "prompt"}, "those above every page"
    assert [field for field, control in controls.items() if times[control] > 1] == []
    assert [field for field, control in controls.items() if control in by_server] == []
    twice = {name for name, count in times.items() if count > 1}
    assert not [name for name in twice if "address" in name[0]], "nor is what can be chosen"
