"""Write and read the record of a run: its one-row result, with a schema version.

run.json        what is being trained, written before the first step (run_file.py)
metrics/        one JSON object a line; cut back to the restored step on resume (segments.py)
record.json     the one-row result: written once, atomically, when training, evaluation and accounting are done
"""

import functools
from importlib import metadata
import math
import platform
import re
from typing import Any

from etils import epath

from experiments import files
from experiments.cli import InputError
from experiments.objects.bucket import Unavailable
from experiments.run import identity, schema
from experiments.store import checkout
import models
from models import accounting

SCHEMA = 1
_TYPES = {"fingerprint": str, "reason": str | None, "run": dict, "manifests": list, "columns": dict}
_NUMBERS = {"loss_nats", "steps_done", "wall_seconds", "censored", "batches_left_out"}  # what readers compute with
# Columns of a record besides the run's options and counts.
RESULTS = re.compile(
    r"task_\w+|loss_(ema|tail)_nats|loss_(ema|tail)_nats_sem|"
    r"loss_nats|loss_nats_sem|loss_unigram_normalised|loss_part_\d+|bits_per_byte|eval_tokens|lossless|text_bytes|"
    r"steps_done|censored|wall_seconds|unique_tokens|unique_tokens_part_\d+|epochs_part_\d+|"
    r"entropy_nats|entropy_nats_error|entropy_bits_per_byte|entropy_part_\d+|"
    r"devices|accelerator_seconds|kwh|loss_position_\d+|loss_len_\d+|"
    r"noise_scale_tokens|noise_scale_tokens_\w+|"
    r"seconds_\w+|lineage_tokens|flops_lineage|parent_loss_nats|added_loss|rewinds|batches_left_out|left_out|packing|packing_trials|packing_mesh"
)
# Of a record and of rows of metrics: what a clock has measured. All else is equal to the bit however a run was carried out.
OF_THE_DAY = re.compile(r"(wall_|accelerator_)?seconds(_\w+)?|tokens_per_second|kwh")
STATUSES = ("complete", "diverged", "failed", "running", "waiting", "lost")


def ledger(run: schema.Run) -> dict[str, Any]:
    """Return parameter and FLOP counts of a run under every convention (models/accounting.py)."""
    return dict(_ledger(run.family, run.model, run.seq_len, run.steps * run.batch_tokens))


@functools.lru_cache(maxsize=4096)
def _ledger(family: str, model: Any, seq_len: int, tokens: int) -> dict[str, Any]:
    # Runs of a study often differ in what does not change the counts: one entry serves them all.
    return accounting.ledger(models.load(family).account(model, seq_len), tokens)


def columns(run: schema.Run) -> dict[str, Any]:
    """Return grid columns of the run's options: model.x, opt.x and x become `x`; those of other sections `section_x`."""
    out: dict[str, Any] = {}
    for path, value, _ in identity.leaves(run):
        section, _, name = path.rpartition(".")
        column = name if section in ("", "model", "opt") else f"{section}_{name}"
        if path == "opt.name":
            column = "optimizer"
        if column in out:
            raise KeyError(f"two options would share the grid column {column!r}; rename {path}")
        out[column] = "+".join(map(str, value)) if isinstance(value, tuple) else value
    out["tokens"] = run.steps * run.batch_tokens
    return out | {"steps": run.steps, "causal": run.model.causal}


def is_result(name: str) -> bool:
    """Tell whether a column of this name is a result of training: no tag of a study may have it."""
    return RESULTS.fullmatch(name) is not None


def is_of_the_day(name: str) -> bool:
    """Tell whether a column of this name says what a clock has measured."""
    return OF_THE_DAY.fullmatch(name) is not None


def finite_or_null(value: Any) -> Any:
    """Return a value as strict JSON can have it: None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make(
    run: schema.Run,
    fingerprint: str,
    manifests: tuple[str, ...],
    status: str,
    reason: str | None = None,
    results: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a record. `results` are further columns: losses, seconds, packing."""
    if status not in STATUSES:
        raise ValueError(f"status={status!r}; expected one of {', '.join(STATUSES)}")
    found = results or {}
    for name in found:
        if not is_result(name):
            raise KeyError(f"column {name!r} is not declared; add it to RESULTS in {__name__}")
    row = columns(run) | ledger(run) | found
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "numerics": identity.numerics_version(run),
        "status": status,
        "reason": reason,
        "run": identity.to_dict(run),
        "manifests": list(manifests),
        "columns": {name: finite_or_null(value) for name, value in row.items()},
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Return what the numbers may depend on besides the run."""
    import flax
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": metadata.version("optax"),
        "grain": metadata.version("grain"),  # its shuffle is the order of the data
        "commit": checkout.commit(),
        "dirty": checkout.is_dirty(),
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "machine": platform.machine(),
    }


def write(directory: epath.PathLike, record: dict[str, Any]) -> None:
    """Publish the record of a run."""
    files.write_json(epath.Path(directory) / "record.json", record)


def read(path: epath.PathLike) -> dict[str, Any]:
    """Read a record. Raises InputError naming the file when it is unreadable, cut short or of the future."""
    path = epath.Path(path)
    try:
        record = files.read_json(path)
        version = record["schema"]
    except Unavailable:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a readable record ({type(error).__name__}); delete it to train again"
        ) from error
    if not isinstance(version, int) or version > SCHEMA:
        raise InputError(f"{path} has schema {version}; this program knows up to {SCHEMA}: update it")
    missing = {"fingerprint", "status", "run", "columns"} - record.keys()
    if missing or record["status"] not in STATUSES:
        raise InputError(f"{path} lacks {', '.join(sorted(missing)) or 'a known status'}; delete it to train again")
    record = _upgrade(record)
    if wrong := next((name for name, kind in _TYPES.items() if not isinstance(record[name], kind)), None):
        raise InputError(f"{path}: {wrong} is of type {type(record[wrong]).__name__}; delete it to train again")
    for name, value in record["columns"].items():
        if isinstance(value, dict | list) or (name in _NUMBERS and not isinstance(value, int | float | None)):
            raise InputError(f"{path}: columns.{name} is of type {type(value).__name__}; delete it to train again")
    return record


def _upgrade(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of an older schema in today's form. Schema 1 is the first; each change adds its step here."""
    return {"reason": None, "manifests": [], "environment": {}} | record
