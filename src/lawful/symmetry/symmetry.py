"""What is said of one symmetry: where it acts, what it conserves, and how exactly it holds."""

from __future__ import annotations

from dataclasses import dataclass

from .action import Mixing, Scaling, Shifting
from .discrete import Discrete
from .generator import Family


@dataclass(frozen=True, eq=False)
class Symmetry:
    """One symmetry of a model under a loss.

    name:      kind and layers, for people.
    kind:      rescaling | scale invariance | GL | QK | shift | offset | permutation | sign.
    layers:    the modules whose tensors move.
    generator: a `Family` of B_c (continuous) or a `Discrete` group.
    charge:    the conserved expression, "" for a discrete symmetry.
    dimension: directions of a family, or neurons of a discrete group.
    laws:      independent charges among them (only symmetric B_c have one).
    violation: the worst fraction of a pairing that fails to cancel; NaN: nothing was tested.
    certified: violation ≤ tolerance, every direction tested, no frozen tensor moved.
    source:    what it was proposed from: the graph of the whole model, or of a part.
    sentence:  all of this in one sentence.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    generator: Family | Discrete
    charge: str
    dimension: int
    laws: int
    violation: float
    certified: bool
    source: str
    sentence: str


def charge_expression(act: Family | Discrete) -> str:
    """Q_i in terms of the tensors: `Σ fc0.weight[i,:]² − Σ fc1.weight[:,i]²`."""
    if isinstance(act, Discrete):
        return ""
    terms = [_term(a) for a in act.actions]
    text = terms[0] + "".join(t if t.startswith(" ") else f" + {t}" for t in terms[1:])
    return f"common part of {text}" if act.embed is not None and act.embed.dim() == 2 else text


def _term(a: Scaling | Mixing | Shifting) -> str:
    index = "i" if a.axis == 0 else ":,i"
    if isinstance(a, Shifting):
        return f"Σᵢ {a.parameter}[{index}]"
    sign = " − " if (isinstance(a, Scaling) and a.degree < 0) or _dual(a) else ""
    if isinstance(a, Scaling):
        degree = "" if abs(a.degree) == 1 else f"{abs(a.degree):g} "
        return f"{sign}{degree}‖{a.parameter}[{index}]‖²"
    other = "j" if a.axis == 0 else ":,j"
    return f"{sign}⟨{a.parameter}[{index}], {a.parameter}[{other}]⟩"


def _dual(a: Scaling | Mixing | Shifting) -> bool:
    return isinstance(a, Mixing) and a.dual


def layer_of(parameter: str) -> str:
    """The module that owns a parameter."""
    return parameter.rpartition(".")[0] or parameter
