"""Corpora, features and batches."""

from ctcsd.data.feasibility import ctc_feasible

__all__ = ["ctc_feasible"]
