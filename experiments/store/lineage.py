"""What a run and its ancestors have cost together, and how far they have read each text.

A child goes on in the data where its line stands, in tokens: whatever batch sizes its ancestors had, it sees what none
of them has seen, in the order that the first of them chose.
"""

import dataclasses
import hashlib
import json
from typing import Any

from experiments.cli import InputError
from experiments.run.schema import Run
from experiments.store.record import ledger


@dataclasses.dataclass(frozen=True)
class Read:
    """How far one text has been read: `sequences` of `seq_len` tokens, in the order of `seed`."""

    seed: int
    seq_len: int
    sequences: int


@dataclasses.dataclass(frozen=True)
class Lineage:
    """After a run. Tokens and FLOPs of all runs of the line; None where an ancestor's are unknown (imported weights)."""

    tokens: int | None = 0
    flops: float | None = 0.0
    reads: tuple[tuple[str, Read], ...] = ()


def data_key(run: Run, manifests: tuple[str, ...]) -> str:
    """Names what the order of a run's data depends on besides the seed and the length of a sequence."""
    value = [list(manifests), run.data.weights, run.data.unique_tokens]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def learned_tokens(run: Run, learns: bool) -> int:
    """Tokens that a learned growth takes before the run's own steps."""
    return run.growth.learn_steps * run.batch_tokens if learns else 0


def start(run: Run, manifests: tuple[str, ...], before: Lineage | None) -> Read:
    """Where a run begins to read. Raises InputError where its parent's data cannot be continued."""
    known = dict(before.reads).get(data_key(run, manifests)) if before and run.growth.continue_data else None
    if known is None:
        return Read(run.seed, run.seq_len, 0)
    if known.seq_len != run.seq_len:
        raise InputError(
            f"seq_len={run.seq_len} differs from the parent's {known.seq_len}: the data's order is one of whole sequences; "
            "expected the same, or growth.continue_data=False to begin again"
        )
    return known


def after(run: Run, manifests: tuple[str, ...], before: Lineage | None, learns: bool = False) -> Lineage:
    """The lineage with this run in it. `learns`: whether its growth is learned from tokens of its own."""
    at, before = start(run, manifests, before), before or Lineage()
    extra, counts = learned_tokens(run, learns), ledger(run)
    taken = run.steps * run.batch_tokens + extra
    # A step that learns the combination differentiates the larger model, as one of the run's own does.
    flops = counts["flops_total"] + extra * counts["flops_per_token"]
    now = dataclasses.replace(at, sequences=at.sequences + taken // run.seq_len)
    return Lineage(
        None if before.tokens is None else before.tokens + taken,
        None if before.flops is None else before.flops + flops,
        tuple(sorted((dict(before.reads) | {data_key(run, manifests): now}).items())),
    )


def further(line: Lineage, run: Run, manifests: tuple[str, ...], sequences: int) -> Lineage:
    """After a run that has left out so many sequences (experiments/training/spikes.py): it has read so much further.

    Not known before the run, and so not in its run.json; children begin behind what it has read.
    """
    reads, key = dict(line.reads), data_key(run, manifests)
    if sequences and key in reads:
        reads[key] = dataclasses.replace(reads[key], sequences=reads[key].sequences + sequences)
    return dataclasses.replace(line, reads=tuple(sorted(reads.items())))


def columns(line: Lineage) -> dict[str, Any]:
    """Grid columns."""
    return {"lineage_tokens": line.tokens, "flops_lineage": line.flops}


def to_json(line: Lineage) -> dict[str, Any]:
    """As it stands in run.json."""
    return dataclasses.asdict(line)


def from_json(value: dict[str, Any]) -> Lineage:
    """What `to_json` wrote. Raises KeyError or TypeError for anything else."""
    return Lineage(value["tokens"], value["flops"], tuple((key, Read(**read)) for key, read in value["reads"]))
