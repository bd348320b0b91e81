"""The operators a compiled graph calls: who is told, what a ticket says, and nobody is needed."""

from __future__ import annotations

import gc

import torch
from torch import Tensor

from lawful.instruments import compiled


class Told:
    def __init__(self) -> None:
        self.heard: list[tuple[int, int | None]] = []

    def begin(self, batch: int | None) -> Tensor:
        return compiled.ticket(7, batch)

    def arrived(self, h: Tensor, g: Tensor, batch: int | None, of_pass: int) -> None:
        assert torch.equal(h, 2 * g)
        self.heard.append((of_pass, batch))


def test_a_gradient_is_told_with_the_ticket_of_its_pass() -> None:
    told, g = Told(), torch.ones(3)
    n = compiled.number(told)
    for batch in (5, None):
        compiled.gradient(2 * g, g, compiled.begin(n, batch), n)
    assert told.heard == [(7, 5), (7, None)]


def test_a_number_keeps_nothing_alive_and_a_graph_that_outlives_it_runs_on() -> None:
    told, g = Told(), torch.ones(3)
    n = compiled.number(told)
    del told
    gc.collect()
    assert n not in compiled._told
    compiled.gradient(2 * g, g, compiled.begin(n, 5), n)


def test_the_operators_are_as_they_are_registered() -> None:
    told, g = Told(), torch.ones(3)
    n = compiled.number(told)
    for operator, arguments in (
        (compiled.begin, (n, 5)),
        (compiled.gradient, (2 * g, g, compiled.ticket(1, None), n)),
    ):
        checked = ("test_schema", "test_faketensor")
        torch.library.opcheck(operator, arguments, test_utils=checked)
