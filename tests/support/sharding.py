"""Train on a mesh of simulated devices, and return the losses."""

import numpy as np

from experiments.data.batches import Batches
from experiments.prepare import prepare
from experiments.run import freeze
from experiments.training import program as population

STEPS = 4


def losses(configs, steps=STEPS, devices=None):
    """Losses [run, step] and final states of the runs as one population."""
    frozen = [freeze.freeze(config) for config in configs]
    return losses_of([run for run, _ in frozen], frozen[0][1], steps, devices)


def losses_of(runs, execution, steps, devices=None):
    """Of runs that are frozen."""
    program = population.Program(runs[0], len(runs), execution, devices)
    filled = runs + [runs[0]] * (program.slots - len(runs))
    batches = [
        Batches(prepare(r.data, execution.data_root, progress=False), r.data, r.seq_len, r.batch, r.seed)
        for r in filled
    ]
    state, values = program.init(filled), program.stack_values(filled)
    out = [[] for _ in filled]
    left = np.full(program.slots, steps)
    while left.any():
        counts = program.next_steps(left)
        shape = program.token_shape()
        tokens = np.zeros(shape, batches[0].dtype)
        for slot, count in enumerate(counts):
            for i in range(count):
                tokens[slot, i] = batches[slot][steps - left[slot] + i]
        state, metrics = program.train(state, values, tokens, counts)
        for slot, count in enumerate(counts):
            out[slot] += np.asarray(metrics["loss"])[slot, :count].tolist()
        left = left - counts
    return np.array(out[: len(runs)]), state, program
