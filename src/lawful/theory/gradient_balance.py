"""Gradient balance: SGD moves scale between layers until the noise on them is balanced.

Layers i, j whose scales may be traded, W_i → cW_i, W_j → W_j/c with the loss unchanged (linear and
ReLU networks), have the charge C = ‖W_i‖² − ‖W_j‖². A step of SGD with coupled weight decay λ
changes it, exactly, by

    ΔC = η²(‖g_i‖² − ‖g_j‖²) − (2ηλ − η²λ²) C,

g the gradient of the mini-batch. Where C is stationary, to leading order in ηλ,

    η(E‖g_i‖² − E‖g_j‖²) = 2λ(‖W_i‖² − ‖W_j‖²),          λ = 0:  E‖g‖² is the same in all layers.

E‖g_B‖² = ‖∇L‖² + κ_B trΣ is the mean of the squares, not the square of the mean. The same holds
of a hidden neuron, with its incoming and outgoing weights.

Along the orbit g_i scales as 1/c and g_j as c, so the balanced point is unique,

    c⁴ = (ηE‖g_i‖² + 2λ‖W_j‖²)/(ηE‖g_j‖² + 2λ‖W_i‖²),

and a small departure from it shrinks by e in

    τ = 1/(η²(E‖g_i‖² + E‖g_j‖²)/(‖W_i‖² + ‖W_j‖²) + 2ηλ)   steps,

∝ B/η² without decay, against 1/(ηλ_H) for the loss: a network can have learned long ago and not be
balanced yet. No verdict before 3τ.

Range. SGD without momentum, a loss unchanged by the rescaling, weights near a valley of minima
while they drift along it. The first equation is exact, always.

Source: Ziyin, Xu, Chuang, arXiv 2505.12387 (layer and neuron balance); Ziyin, Wang, Li, Wu, arXiv
2402.07193 (the charge under noise); exact step, c and τ derived here (see `noise_equilibrium`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Balance:
    """Two layers (or a neuron's incoming and outgoing weights) that may trade scale.

    power_i, power_j: E‖g‖² of mini-batch gradients.  weight_i, weight_j: ‖W‖².
    eta, weight_decay: η and torch's coupled λ.
    """

    power_i: float
    power_j: float
    weight_i: float
    weight_j: float
    eta: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        squares = self.power_i, self.power_j, self.weight_i, self.weight_j
        if not min(*squares, self.eta, self.weight_decay) >= 0:
            raise ValueError(f"{self}: squares and rates must not be negative")

    @property
    def noise(self) -> float:
        """η(E‖g_i‖² − E‖g_j‖²).

        >>> Balance(3.0, 1.0, 9.0, 4.0, eta=0.1).noise
        0.2
        """
        return self.eta * (self.power_i - self.power_j)

    @property
    def decay(self) -> float:
        """2λ(‖W_i‖² − ‖W_j‖²).

        >>> Balance(3.0, 1.0, 9.0, 4.0, eta=0.1, weight_decay=0.02).decay
        0.2
        """
        return 2 * self.weight_decay * (self.weight_i - self.weight_j)

    @property
    def pull(self) -> float:
        """Mean of the two opposing pulls: ½(η(E‖g_i‖² + E‖g_j‖²) + 2λ(‖W_i‖² + ‖W_j‖²))."""
        noise = self.eta * (self.power_i + self.power_j)
        return noise / 2 + self.weight_decay * (self.weight_i + self.weight_j)

    @property
    def relaxation_steps(self) -> float:
        """τ; infinite where nothing pulls.

        >>> Balance(1.0, 1.0, 2.0, 2.0, eta=0.5).relaxation_steps
        8.0
        """
        weight = self.weight_i + self.weight_j
        rate = 2 * self.eta * self.pull / weight if weight > 0 else math.nan
        return math.inf if rate == 0 else 1 / rate

    @property
    def balancing_scale(self) -> float:
        """c that brings the two layers into balance; 1 where they are, NaN where nothing pulls.

        >>> Balance(16.0, 1.0, 1.0, 1.0, eta=0.1).balancing_scale
        2.0
        """
        up = self.eta * self.power_i + 2 * self.weight_decay * self.weight_j
        down = self.eta * self.power_j + 2 * self.weight_decay * self.weight_i
        if down == 0:
            return math.nan if up == 0 else math.inf
        return (up / down) ** 0.25

    def scaled(self, c: float) -> Balance:
        """The same pair at W_i → cW_i, W_j → W_j/c."""
        return Balance(
            self.power_i / c**2, self.power_j * c**2, self.weight_i * c**2, self.weight_j / c**2,
            self.eta, self.weight_decay,
        )  # fmt: skip
