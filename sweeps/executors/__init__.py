"""Executors, found by name: a file of this folder is an executor, and `load("slurm:gpus=1")` returns the one it makes.

    --executor=local                                          this machine
    --executor=slurm:partition=a100,gpus=1,minutes=240,slots=16
    --executor=ray:address=auto,tpus=4,hosts=4                one actor per host of a slice
    --executor=tpu-vm:zone=us-east5-b,type=v5litepod-16,bucket=gs://mine/work,spot=true

What follows the colon are fields of the executor's `Options`, a dataclass in its file. What executors share is in
support/; what an executor and its workers have to do is said in support/protocol.py.
"""

import importlib
import pkgutil
from typing import Any

from models.errors import InputError, nearest
from sweeps.executors.support.options import parse_options
from sweeps.executors.support.protocol import Executor


def executor_names() -> tuple[str, ...]:
    """Return the names of the files in this folder as --executor takes them: tpu_vm.py is `tpu-vm`."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return tuple(sorted(name.replace("_", "-") for name in files))


def load(spec: str) -> Executor[Any]:
    """Make the executor of NAME or NAME:key=value,….

    Raises InputError for an unknown name or key, and for a wrong value.
    """
    name, _, options_text = spec.partition(":")
    if name not in executor_names():
        raise InputError(f"--executor={name!r} is not known; {nearest(name, executor_names(), 'executor')}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    options = parse_options(module.Options, options_text, flag=f"--executor={name}")
    return module.executor(options)
