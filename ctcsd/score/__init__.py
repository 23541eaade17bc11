"""Error rates, their uncertainty, agreement between models, and tables."""

from ctcsd.score.wer import WerStats, wer

__all__ = ["WerStats", "wer"]
