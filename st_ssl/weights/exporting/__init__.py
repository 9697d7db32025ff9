"""Ours out: one file per format. See ``base`` for what a format has to do, and how each is checked."""
