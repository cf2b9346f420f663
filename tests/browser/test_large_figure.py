"""A map too large to carry its numbers, in a real browser: the image shows it and hover still answers."""

import numpy as np
import plotly.graph_objects as go

from ssmlens.plot.tiles import NUMBERS, tile, tile_spec


def test_hover_over_an_image_names_the_tokens_and_the_peak(visit, tmp_path):
    tokens = 331
    values = np.tril(np.full((tokens, tokens), 0.01))
    values[200, 64] = -7.5
    assert values.size > NUMBERS
    shown = tile(values, (0, tokens), (0, tokens), "peak")
    words = [chr(97 + i % 26) for i in range(tokens)]
    figure = go.Figure(tile_spec(shown, words, hover="tokens"))
    figure.update_layout(width=1000, height=850)
    figure.write_html(tmp_path / "figure.html", include_plotlyjs=True)
    page = visit((tmp_path / "figure.html").as_uri())
    page.wait_for_selector(".imagelayer image")
    box = page.locator(".nsewdrag").bounding_box()
    for step in (5, 0):  # the pointer must be seen to move
        x, y = (64.5 + step) / tokens * box["width"], 200.5 / tokens * box["height"]
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_timeout(200)
    text = page.locator(".hoverlayer").text_content()
    assert "-7.50" in text.replace("−", "-")
    assert "peak of 2×2" in text
    assert any(f"query  {q} " in text for q in (200, 201))
    assert any(f"key    {k} " in text for k in (64, 65))
