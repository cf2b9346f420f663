"""typeseg: a family from outside the package."""
