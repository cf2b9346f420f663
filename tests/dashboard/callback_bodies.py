"""Bodies such as Dash's own JavaScript sends."""

import json


def body_of(callback, *values):
    """The body that asks for a callback.

    Args:
        callback: One of the list at /_dash-dependencies.
        values: The values of its first inputs; those of its other inputs and of its state are null.
    """
    name = callback["output"]
    outputs = [_identified(part) for part in name.strip(".").split("...")]
    inputs = [_given(it) for it in callback["inputs"]]
    for given, value in zip(inputs, values, strict=False):
        given["value"] = value
    return {
        "output": name,
        "outputs": outputs if name.startswith("..") else outputs[0],
        "inputs": inputs,
        "state": [_given(it) for it in callback["state"]],
        "changedPropIds": [],
    }


def _given(dependency):
    return {**_identified(f"{dependency['id']}.{dependency['property']}"), "value": None}


def _identified(part):
    identifier, _, name = part.rpartition(".")
    return {
        "id": json.loads(identifier) if identifier.startswith("{") else identifier,
        "property": name,
    }
