"""The sixteen combinations of the mimetic components on the copy task."""
