"""Methods: what the laws of symmetry are good for, on a user's model and through torch alone.

    spred      a product of factors + weight decay = an L1 (or L_{2/K}) penalty
    dcs        the same for any mirror: groups, rank, tied neurons; with the critical decay
    syre       decay to a random point: no symmetric state is invariant; and its control
    teleport   along an orbit to a charge or to the noise equilibrium, at no cost in loss
    warmup     how many steps SGD needs to get to where the target learning rate is stable
    entropic   the loss that many small steps would need to do as one finite step of SGD does
    fold       the plain model back
    mup        one learning rate for all widths, checked by `mup_check`

Reparametrise, build the optimiser on `parameter_groups(model, decay)`, train, `fold`.
"""

from .coordinate_check import Coordinates, coordinate_check
from .dcs import DCS, Groups, LowRank, Mirror, Sparse, Subspace, Tied, critical_decay, dcs
from .decay import parameter_groups
from .entropic import entropic_loss, entropy
from .fold import fold
from .mup import Maximal, mup, mup_check
from .parameters import Reparametrisation
from .spred import Product, SignTrapWarning, matched_decay, sign_trap, spred
from .syre import Shift, perturb_once, syre
from .teleport import charges, rescale, teleport_charge, teleport_linear, teleport_noise
from .warmup import Advice, Rescaling, advise_warmup, stable_rate

__all__ = [
    "DCS",
    "Advice",
    "Coordinates",
    "Groups",
    "LowRank",
    "Maximal",
    "Mirror",
    "Product",
    "Reparametrisation",
    "Rescaling",
    "Shift",
    "SignTrapWarning",
    "Sparse",
    "Subspace",
    "Tied",
    "advise_warmup",
    "charges",
    "coordinate_check",
    "critical_decay",
    "dcs",
    "entropic_loss",
    "entropy",
    "fold",
    "matched_decay",
    "mup",
    "mup_check",
    "parameter_groups",
    "perturb_once",
    "rescale",
    "sign_trap",
    "spred",
    "stable_rate",
    "syre",
    "teleport_charge",
    "teleport_linear",
    "teleport_noise",
]
