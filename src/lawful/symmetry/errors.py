"""The one error of this room: a model whose symmetries cannot be found, and why."""


class SymmetryError(ValueError):
    """One sentence: what in the model or the data stands in the way, and the remedy."""
