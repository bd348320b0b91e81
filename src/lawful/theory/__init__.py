"""Closed forms: numbers in, numbers out. Nothing here has seen a model or a run."""
