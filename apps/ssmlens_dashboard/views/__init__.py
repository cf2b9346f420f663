"""Arrays as a browser needs them: of the size of the screen, computed once, kept within a budget of memory."""
