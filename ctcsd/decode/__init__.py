"""Search: from an archive of posteriors to hypotheses."""

from ctcsd.decode.search import METHODS, Hypothesis, search

__all__ = ["METHODS", "Hypothesis", "search"]
