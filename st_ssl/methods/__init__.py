"""Pretraining methods, one file each. See ``base`` for the contract and CONTRIBUTING.md for how to add one."""

from st_ssl.methods.base import METHODS, Losses, Method, Outputs

__all__ = ["METHODS", "Losses", "Method", "Outputs"]
