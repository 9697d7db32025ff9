"""Objectives, one file per idea."""
