"""Encoders, one file per family. See ``base`` for the contract that they share."""

from st_ssl.encoders.base import ENCODERS, Encoder, InputConfig, load_encoder, save_encoder

__all__ = ["ENCODERS", "Encoder", "InputConfig", "load_encoder", "save_encoder"]
