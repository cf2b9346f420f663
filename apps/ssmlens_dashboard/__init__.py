"""The dashboard: a Dash app over captures. `make_app` builds it, `ssmlens dashboard` serves it."""
