"""What a run and its ancestors have cost together, and how far they have read each text.

A child goes on in the data where its line stands, in tokens: whatever batch sizes its ancestors had, it sees what none
of them has seen, in the order that the first of them chose.
"""

from collections.abc import Mapping
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
    """What stands after a run. Tokens and FLOPs are those of all runs of the line.

    They are None where an ancestor's are unknown (imported weights). `reads`: how far each text was read, by its data_key.
    """

    tokens: int | None = 0
    flops: float | None = 0.0
    reads: tuple[tuple[str, Read], ...] = ()


def data_key(run: Run, manifests: tuple[str, ...]) -> str:
    """Name what the order of a run's data depends on besides the seed and the length of a sequence."""
    value: list[Any] = [list(manifests), run.data.weights, run.data.unique_tokens]
    if run.data.unique:  # so that texts of before it keep their names
        value.append(run.data.unique)
    text = json.dumps(value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def learned_tokens(run: Run, learns: bool) -> int:
    """Return the tokens that a learned growth takes before the run's own steps."""
    return run.growth.learn_steps * run.batch_tokens if learns else 0


def start(run: Run, manifests: tuple[str, ...], before: Lineage | None) -> Read:
    """Return where a run begins to read. Raises InputError where its parent's data cannot be continued."""
    known = None
    if before is not None and run.growth.continue_data:
        known = dict(before.reads).get(data_key(run, manifests))
    if known is None:
        return Read(run.seed, run.seq_len, 0)
    if run.only_evaluates:  # it reads nothing: what its line has read, in sequences of its own length
        return Read(known.seed, run.seq_len, known.sequences * known.seq_len // run.seq_len)
    if known.seq_len != run.seq_len:
        raise InputError(
            f"seq_len={run.seq_len} differs from the parent's {known.seq_len}: the data's order is one of whole sequences; "
            "expected the same, or growth.continue_data=False to begin again"
        )
    return known


def after(run: Run, manifests: tuple[str, ...], before: Lineage | None, learns: bool = False) -> Lineage:
    """Return the lineage with this run in it. `learns`: whether its growth is learned from tokens of its own."""
    if run.only_evaluates and before is not None:
        return before
    begin = start(run, manifests, before)
    before = before or Lineage()
    learned = learned_tokens(run, learns)
    taken = run.steps * run.batch_tokens + learned
    # A step that learns the combination differentiates the larger model, as one of the run's own does.
    costs = ledger(run)
    spent = costs["flops_total"] + learned * costs["flops_per_token"]
    end = dataclasses.replace(begin, sequences=begin.sequences + taken // run.seq_len)
    return Lineage(
        tokens=None if before.tokens is None else before.tokens + taken,
        flops=None if before.flops is None else before.flops + spent,
        reads=_sorted_reads(dict(before.reads) | {data_key(run, manifests): end}),
    )


def further(line: Lineage, run: Run, manifests: tuple[str, ...], sequences: int) -> Lineage:
    """Return the lineage after a run that has left out so many sequences (experiments/training/spikes.py).

    It has read so much further. That is not known before the run, and so not in its run.json; children begin behind what
    it has read.
    """
    reads = dict(line.reads)
    key = data_key(run, manifests)
    if sequences and key in reads:
        read = reads[key]
        reads[key] = dataclasses.replace(read, sequences=read.sequences + sequences)
    return dataclasses.replace(line, reads=_sorted_reads(reads))


def _sorted_reads(reads: Mapping[str, Read]) -> tuple[tuple[str, Read], ...]:
    return tuple(sorted(reads.items()))


def columns(line: Lineage) -> dict[str, Any]:
    """Return grid columns."""
    return {"lineage_tokens": line.tokens, "flops_lineage": line.flops}


def to_json(line: Lineage) -> dict[str, Any]:
    """Return the lineage as it stands in run.json."""
    return dataclasses.asdict(line)


def from_json(value: Mapping[str, Any]) -> Lineage:
    """Read what `to_json` wrote. Raises KeyError or TypeError for anything else."""
    reads = tuple((key, Read(**read)) for key, read in value["reads"])
    return Lineage(value["tokens"], value["flops"], reads)
