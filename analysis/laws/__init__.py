"""The laws by name. Add one: write its frozen class in a file here and list it below."""

from analysis.laws.base import Law
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.isoflop import Envelope, IsoFlop
from experiments.cli import InputError, nearest

LAWS: dict[str, type[Law]] = {law.NAME: law for law in (Chinchilla, IsoFlop, Envelope)}


def load(name: str) -> type[Law]:
    """The class of a law; InputError with the nearest name for an unknown one."""
    if name not in LAWS:
        raise InputError(f"--law: {name!r} is not a law; {nearest(name, LAWS, 'law')}")
    return LAWS[name]
