"""Units, tokens and text."""
