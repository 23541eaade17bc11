"""ctcsd: train, distill, decode and ship CTC speech recognisers."""

__version__ = "0.1.0"
