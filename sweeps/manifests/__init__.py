"""Launchers of others, found by name: a file of this folder writes a study's jobs for one of them.

    --kind=skypilot     tasks as YAML
    --kind=xpk          `xpk workload create`, for TPU slices in Kubernetes
    --kind=tpu-vm       the gcloud commands of a TPU slice, one population after the other

A file has `Options`, a dataclass that is read from --options, and `Jobs`. What they share is in support/.
"""

import importlib
import pkgutil
from typing import Any

from models.errors import InputError, nearest


def kinds() -> tuple[str, ...]:
    """Return the names of the files in this folder as --kind takes them: tpu_vm.py is `tpu-vm`."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return tuple(sorted(name.replace("_", "-") for name in files))


def load(kind: str) -> Any:
    """Return the module of a kind. Raises InputError with the nearest name when there is none."""
    if kind not in kinds():
        raise InputError(f"--kind={kind!r} is not known; {nearest(kind, kinds(), 'kind')}")
    return importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")
