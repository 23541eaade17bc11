"""Encoders with CTC exits."""

from ctcsd.model.shared_encoder import ExitOutput, SharedEncoderCtc

__all__ = ["ExitOutput", "SharedEncoderCtc"]
