"""Knowledge capacity: the bits of knowledge that the parameters of a model hold.

Bits come from losses on synthetic biographies, whose entropy is known.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import Coefficient, FormulaLaw, Number, prefactor, rounded_minimum
from analysis.solve.objective import Objective
from experiments.cli import InputError

if TYPE_CHECKING:
    pass

ALLEN_ZHU = "Allen-Zhu & Li 2024 (arXiv 2404.05405)"
DENSING = "Xiao et al. 2024 (Densing law; arXiv 2412.04315)"
PLAIN_NAMES = 400 * 400 * 1000  # first, middle and last names of the source's biographies
# Pronoun, birth date, birth city, university, major, employer; the work city follows from the employer.
PLAIN_ATTRIBUTES = (2, 12 * 28 * 200, 200, 300, 100, 263)


def stored_bits(people: float, choices: Any, loss_nats: Any) -> Any:
    """Return people x log2(choices / e^loss), at least 0: what a model knows of one item a person.

    choices: how many values the item is drawn from, uniformly; loss_nats: the model's mean loss for the whole item, its
    tokens summed, given what precedes it. Chance leaves 0 bits, certainty log2(choices).
    """
    possible = np.log2(np.asarray(choices, dtype=np.float64))
    missing = np.asarray(loss_nats) / math.log(2)
    return people * np.maximum(possible - missing, 0.0)


def biography_bits(
    people: float,
    name_loss: Any,
    value_loss: Any,
    names: float = PLAIN_NAMES,
    attributes: tuple[float, ...] = PLAIN_ATTRIBUTES,
) -> Any:
    """Return the bits that a model holds of biographies (bioS): N log2(N_0/e^p1) + N log2(S_0/e^p2) for N people.

    p1 = name_loss: loss of a whole name, with nothing before it; a model that knows the names and no more has ln N.
    p2 = value_loss: loss of all attributes of a person together, given the name. S_0 is the product of `attributes`.
    Losses in nats. Raises InputError for more people than names.
    """
    if not 0 < people <= names:
        raise InputError(f"people: {people} is not from 1 to the number of names, {names}")
    values = math.prod(map(float, attributes))
    return stored_bits(people, names, name_loss) + stored_bits(people, values, value_loss)


def biography_limit(
    people: float, names: float = PLAIN_NAMES, attributes: tuple[float, ...] = PLAIN_ATTRIBUTES
) -> float:
    """Return the bits in the biographies themselves: those of a model that knows which names occur, and every attribute."""
    return float(biography_bits(people, math.log(people), 0.0, names, attributes))


def random_bits(
    people: float, names: float, knowledge: tuple[int, int, int, int, int], losses: tuple[float, float, float]
) -> float:
    """Return the bits of random data (bioD), to leading order: those of names, values, and of the sets that values come from.

    knowledge: K attributes a person, C chunks a value, D different chunks an attribute, L tokens a chunk, T tokens in all.
    losses: p1 of a name, p2 of a value, p3 of the first sight of a chunk, in nats each. The sum is
    N log2(N_0/e^p1) + N K log2(D^C/e^p2) + K D log2(T^L/(D e^p3)), each term at least 0.
    """
    K, C, D, L, T = knowledge
    if min(knowledge) < 1 or not 0 < people <= names or float(T) ** L < D:
        raise InputError(
            f"knowledge: {knowledge} does not fit {people} of {names} names; expected counts K, C, D, L, T"
        )
    name_loss, value_loss, chunk_loss = losses
    of_name = stored_bits(people, names, name_loss)
    of_value = max(C * math.log2(D) - value_loss / math.log(2), 0.0)
    of_chunk = max(L * math.log2(T) - math.log2(D) - chunk_loss / math.log(2), 0.0)
    return float(of_name + people * K * of_value + K * D * of_chunk)


@dataclasses.dataclass(frozen=True)
class KnowledgeCapacity(FormulaLaw):
    """bits = min(k N, H): k bits a parameter, until the data's H bits are all known.

    The corner is rounded: ((k N)^-q + H^-q)^(-1/q), as near the ceiling the last bits come at a lower price. Its source
    finds k near 2 after 1000 exposures to every fact, near 1 after 100, and no less for weights in 8 bits.
    """

    k: Number
    q: Number

    NAME: ClassVar[str] = "knowledge_capacity"
    FORMULA: ClassVar[str] = "bits = ((k N)^-q + H^-q)^(-1/q), that is min(k N, H) with a rounded corner"
    SOURCE: ClassVar[str] = f"{ALLEN_ZHU}; the ceiling's form is ours"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "data_bits", "bits")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "bits": Role("bits of knowledge that the model holds", ("bits", "knowledge_bits")),
        "data_bits": Role("bits of knowledge in the data", ("data_bits", "bits_data")),
    }
    TARGET: ClassVar[str] = "bits"
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "log")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        "k": prefactor(*(float(bits) for bits in 2.0 ** np.arange(-8, 6))),
        "q": prefactor(1.0, 2.0, 4.0, 10.0, 30.0, low=0.2, high=100.0),
    }

    def predict(self, N: Any, data_bits: Any) -> Any:
        """Return the bits that N parameters hold of data with that many bits."""
        return rounded_minimum(self.k * N, data_bits, self.q)
