"""Layouts of published weights, one file per family. See ``st_ssl/weights/base.py`` for what each has to tell."""
