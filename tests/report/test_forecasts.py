"""Forecasts in the terminal: few places in sentences, many in a table; names are letters."""

from __future__ import annotations

import math

from rich.console import Console

from lawful.forecast import Forecast
from lawful.report.forecasts import FEW, forecast_table


def made(where: str, name: str = "charge", value: float = 1.5, applies: str = "yes") -> Forecast:
    return Forecast("a theory", name, where, value, "1", f"It is {value}.", "SGD.", applies)


def printed(*forecasts: Forecast) -> str:
    console = Console(width=80, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(forecast_table(forecasts))
    return capture.get()


def test_a_few_places_are_sentences_with_what_they_rest_on_once() -> None:
    text = printed(made("fc[0]"), made("fc[0]", "shift", 0.5), made("", "top", applies="partly"))
    assert text.count("fc[0]") == 1
    assert text.count("Rests on: SGD.") == 2
    assert "It is 1.5." in text
    assert "whole model" in text
    assert "●" in text.splitlines()[1]
    assert "◐" in text.splitlines()[4]


def test_many_places_are_one_table() -> None:
    many = [made(f"layer {i}", value=float(i)) for i in range(FEW + 1)]
    silent = made("layer 9", "none", math.nan, "no")
    text = printed(*many, silent)
    assert "Rests on, in the first row: SGD." in text
    assert "It is 3" not in text
    assert "3" in next(line for line in text.splitlines() if "layer 3" in line)
    assert "It is nan." in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_nothing_to_say_is_said() -> None:
    assert "No theory" in printed()
