"""Engines: what starts the workers of a sweep, on this machine or on many. An engine is one file here."""
