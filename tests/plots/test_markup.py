from ssmlens.plots.markup import Markup, element, joined


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", "<i>")
    assert element("p", inner, "&") == "<p><b>&lt;i&gt;</b>&amp;</p>"
    assert isinstance(inner, Markup)
    assert joined("<", Markup("<br>")) == "&lt;<br>"


def test_attributes_cannot_be_left():
    hostile = '"><script>alert(1)</script>'
    written = element("a", title=hostile, class_="x", data_layer="3", open=True, id=None)
    assert "<script>" not in written
    assert written.startswith('<a title="&quot;&gt;&lt;script&gt;')
    assert written.endswith(' class="x" data-layer="3" open></a>')
