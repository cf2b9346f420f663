"""Arrays for the browser: at screen size, computed once, cached within a memory budget."""
