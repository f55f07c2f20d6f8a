"""The laws by name. Add one: write its frozen class in a file of its subject; the files listed here are searched."""

from types import ModuleType

from analysis.laws import (
    allocation,
    chinchilla,
    critical_batch,
    density,
    downstream,
    growth,
    kaplan,
    knowledge,
    lr_batch,
    mixing,
    moe,
    one_quantity,
    overtraining,
    precision,
    repetition,
    schedules,
    shape,
    superposition,
    translation,
    vocabulary,
)
from analysis.laws.base import Law
from experiments.cli import InputError, nearest

FILES: tuple[ModuleType, ...] = (
    chinchilla,
    allocation,
    kaplan,
    one_quantity,
    overtraining,
    repetition,
    moe,
    precision,
    lr_batch,
    vocabulary,
    mixing,
    downstream,
    critical_batch,
    schedules,
    growth,
    shape,
    superposition,
    translation,
    knowledge,
    density,
)
LAWS: dict[str, type[Law]] = {
    law.NAME: law
    for file in FILES
    for law in vars(file).values()
    if isinstance(law, type) and issubclass(law, Law) and hasattr(law, "NAME") and law.__module__ == file.__name__
}


def load(name: str) -> type[Law]:
    """The class of a law; InputError with the nearest name for an unknown one."""
    if name not in LAWS:
        raise InputError(f"--law: {name!r} is not a law; {nearest(name, LAWS, 'law')}")
    return LAWS[name]
