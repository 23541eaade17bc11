"""Encoders with CTC exits."""

from ctcsd.model.exits import EncoderCtc, ExitOutput
from ctcsd.model.factory import make_model
from ctcsd.model.shared_encoder import SharedEncoderCtc

__all__ = ["EncoderCtc", "ExitOutput", "SharedEncoderCtc", "make_model"]
