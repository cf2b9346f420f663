"""HTML that is safe by construction: text becomes markup only by passing through here."""

import html


class Markup(str):
    """A string that is already HTML."""

    __slots__ = ()


def element(tag: str, *children: str | Markup, **attributes: str | bool | None) -> Markup:
    """An HTML element; children that are not Markup are escaped, and so is every attribute.

    Args:
        tag: Its name.
        *children: Text or Markup.
        **attributes: By name, an underscore for each hyphen and one at the end of a Python keyword
            (`class_`). True gives a bare attribute; False and None leave it out.
    """
    opening = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        opening += f" {name.rstrip('_').replace('_', '-')}"
        if value is not True:
            opening += f'="{html.escape(value)}"'
    if tag == "img":
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{joined(*children)}</{tag}>")


def joined(*children: str | Markup) -> Markup:
    """Children one after the other; those that are not Markup are escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children))
