"""Numbers inside sentences: three digits, and powers of ten where they help."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """Three significant digits.

    >>> figure(0.12345), figure(-1234567.0), figure(1e-5), figure(math.inf), figure(math.nan)
    ('0.123', '−1.23e6', '1e-5', '∞', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.3g}".replace("-", "−")
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent.replace('−', '-'))}"


def count(steps: float) -> str:
    """A number of steps: whole below ten thousand.

    >>> count(812.4), count(2.5e7), count(float("inf"))
    ('812', '2.5e7', '∞')
    """
    return f"{steps:,.0f}" if steps < 1e4 else figure(steps)
