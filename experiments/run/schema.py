"""Declare a run and how it is executed, as frozen dataclasses.

A `Run` is everything that can change the numbers of one training run; an `Execution` is where and how it is carried
out. Each option is declared once, in the dataclass that uses it: its default, its range, when it has an effect. A
config file makes a locked ConfigDict from them (experiments/configs), and freeze.py turns that back and checks it.
"""

from collections.abc import Mapping
import dataclasses
import math
import re
from typing import Any

from experiments.data.options import Data
from experiments.training import optimizers
from experiments.training.optimizers import Options
from models.growing.options import Growth
from models.mesh.mesh import MeshShape
from models.option import (
    AT_LEAST_ONE,
    BELOW_ONE,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Valid,
    When,
    option,
    when,
    when_set,
)

SEED = Valid("a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32)
SHARE = Valid("a number above 0, and at most 1", lambda value: 0 < value <= 1)
PATH = Valid("the path of a folder", lambda value: bool(value.strip()) and "\0" not in value)
DISPATCH = Valid("at least 1, and at most 100000", lambda steps: 1 <= steps <= 100_000)
SAMPLES = Valid(
    "distinct numbers of at least 1", lambda counts: min(counts, default=1) >= 1 and len(set(counts)) == len(counts)
)
WITH_TASKS = When("tasks", "tasks names files", bool, {"tasks": ("task.jsonl",)})
PROJECT = Valid(
    "a project name of letters, digits, . _ and -", lambda value: re.fullmatch(r"[\w.-]{1,128}", value) is not None
)

COOLING = ("wsd", "power")
DECAYING = ("cosine", "cosine_halved", *COOLING)
SCHEDULES = (*DECAYING, "constant")
NEGATIVE = Valid("a negative number", lambda value: -math.inf < value < 0)
DECAY_SHAPES = ("sqrt", "linear", "cosine", "square", "mirror_cosine", "exponential")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate over tokens, as a factor of the peak: warm-up, body, decay."""

    name: str = option("cosine", choices=SCHEDULES, help="shape over the run; constant: no decay")
    warmup_tokens: int = option(0, runtime=True, valid=NOT_NEGATIVE, help="length of the linear warm-up")
    warmup_start: float = option(
        0.01,
        runtime=True,
        valid=FRACTION,
        when=when("warmup_tokens", above=0),
        help="factor at the first step, of the rate that it warms up to",
    )
    decay_tokens: int = option(
        0,
        runtime=True,
        valid=NOT_NEGATIVE,
        when=when("name", *COOLING),
        help="length of the cooldown, which ends with the run",
    )
    decay_shape: str = option("sqrt", choices=DECAY_SHAPES, when=when("name", *COOLING), help="shape of the cooldown")
    final: float = option(
        0.1,
        runtime=True,
        valid=FRACTION,
        when=when("name", *DECAYING),
        help="factor at the end: of the peak; for power, of the rate that the cooldown begins at",
    )
    # Shen et al. 2024 (arXiv 2408.13359) found these for sequences of 4096 tokens, under muP, with opt.lr=0.02.
    a: float = option(
        4.6,
        runtime=True,
        valid=POSITIVE,
        when=when("name", "power"),
        help="the rate is a x sequences a step x tokens^b, and opt.lr at most",
    )
    b: float = option(-0.51, runtime=True, valid=NEGATIVE, when=when("name", "power"), help="power of the tokens")


@dataclasses.dataclass(frozen=True)
class Loss:
    """Next-token cross-entropy in nats plus weighted terms."""

    z_loss: float = option(
        0.0, runtime=True, valid=NOT_NEGATIVE, help="coefficient of mean logsumexp(logits)^2 (PaLM: 1e-4)"
    )
    chunk: int | None = option(
        None, numerics=False, valid=AT_LEAST_ONE, help="tokens whose logits a device has at a time; none: by memory"
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out loss at the end of a run (and on the way: execution.eval_every_tokens)."""

    tokens: int = option(65_536, valid=AT_LEAST_ONE, help="at most; fewer when the corpus holds out fewer")
    weights: tuple[float, ...] = option(
        (), help="share of each corpus in what is evaluated; empty: by the size of its held-out text"
    )
    tasks: tuple[str, ...] = option(
        (), help="each FILE.jsonl, NAME=FILE.jsonl or CORPUS@SORT: prompts whose answers are scored by their likelihood"
    )
    coverage: tuple[int, ...] = option(
        (10, 100),
        valid=SAMPLES,
        when=WITH_TASKS,
        help="numbers of samples of which one has to be the answer: the columns task_NAME_coverage_K",
    )
    positions: int = option(
        1,
        valid=AT_LEAST_ONE,
        help="equal stretches of a sequence, of each of which there is a loss: loss_position_1, …",
    )
    seq_lens: tuple[int, ...] = option(
        (),
        help="lengths of sequences to evaluate at besides seq_len, as many a batch: loss_len_N is the loss at N tokens",
    )


@dataclasses.dataclass(frozen=True)
class Averaging:
    """Means of the parameters over steps, which are evaluated beside the parameters themselves."""

    ema: bool = option(
        False, help="keep an exponential mean of the parameters: columns loss_ema_nats, loss_ema_nats_sem"
    )
    ema_decay: float = option(
        0.999, runtime=True, valid=BELOW_ONE, when=when("ema", True), help="what is left of the mean after a step"
    )
    tail: bool = option(
        False,
        help="keep the mean of the parameters over the end of the run: columns loss_tail_nats, loss_tail_nats_sem",
    )
    tail_share: float = option(
        0.2, runtime=True, valid=SHARE, when=when("tail", True), help="share of the run's steps that is its end"
    )
    tail_every_tokens: int | None = option(
        None,
        runtime=True,
        valid=AT_LEAST_ONE,
        when=when("tail", True),
        help="tokens between two steps that count, back from the last, as for a mean of checkpoints; none: every step",
    )


@dataclasses.dataclass(frozen=True)
class Spikes:
    """What is done about loss spikes: go back to a state of before, and leave out the batches up to the spike.

    States to go back to lie at fixed counts of tokens, so that which batches are left out depends on nothing else.
    """

    factor: float | None = option(
        None, valid=POSITIVE, help="a loss so many deviations above the last ones is a spike; none: nothing is done"
    )
    limit: int = option(3, valid=AT_LEAST_ONE, when=when_set("factor"), help="how often a run may go back")
    every_tokens: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        when=when_set("factor"),
        help="tokens between two states that a run can go back to; none: those of 100 steps",
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run. Token counts are rounded to whole steps of `batch_tokens`."""

    family: str
    model: Any
    data: Data = Data()
    opt: Options = optimizers.load(optimizers.DEFAULT).Config()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    evaluation: Evaluation = Evaluation()
    growth: Growth = Growth()
    spikes: Spikes = Spikes()
    averaging: Averaging = Averaging()
    tokens: int = option(
        2_000_000,
        runtime=True,
        valid=NOT_NEGATIVE,
        help="training tokens, rounded to whole steps; 0: the parent is evaluated as it stands, under these options",
    )
    batch_tokens: int = option(2_048, valid=POSITIVE, help="tokens a step; a multiple of seq_len")
    seq_len: int = option(128, valid=POSITIVE, help="tokens a sequence")
    seed: int = option(0, runtime=True, valid=SEED, help="of the initial parameters and the order of the data")
    parent: str | None = option(
        None, help="run whose last checkpoint this one starts from: its fingerprint, or its folder (see growth)"
    )

    @property
    def batch(self) -> int:
        """Sequences a step."""
        return self.batch_tokens // self.seq_len

    @property
    def steps(self) -> int:
        """Optimizer steps: the tokens in whole batches, rounded to the nearest."""
        return round(self.tokens / self.batch_tokens)

    @property
    def only_evaluates(self) -> bool:
        """Whether it takes no step: its parent is evaluated under its options."""
        return self.parent is not None and self.tokens == 0


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where a run is carried out and what is kept. Never part of the fingerprint."""

    data_root: str = option("data", valid=PATH, help="folder of the prepared corpora")
    parent_workdir: str | None = option(
        None, valid=PATH, help="folder of the parent: a run's, or of weights; none: beside the run's own"
    )
    mesh: MeshShape = MeshShape()
    cpu_devices: int | None = option(
        None, valid=AT_LEAST_ONE, help="simulated devices on a CPU; none: one per core this process may use"
    )
    # The numbers are those of the whole batch. On each device every part has as many of the device's own sequences;
    # weights that are split are gathered once a part.
    microbatches: int = option(
        1, valid=AT_LEAST_ONE, help="equal parts in which a step's batch goes through the model, for the memory of one"
    )
    noise_scale: bool = option(
        False,
        when=when("microbatches", above=1),
        help="measure the gradient noise scale between the parts of a step's batch; a metric and columns",
    )
    offload: str = option(
        "none",
        choices=("none", "optimizer"),
        help="optimizer: its moments in the host's memory between updates; the same numbers",
    )
    packing: str = option(
        "auto",
        choices=("auto", "map", "vmap"),
        help="trials of a population one after the other on each device (map), or all at once (vmap)",
    )
    steps_per_dispatch: int | None = option(
        None, valid=DISPATCH, help="steps between two looks of the host; none: about a quarter of a second's work"
    )
    log_every_steps: int = option(10, valid=AT_LEAST_ONE, help="steps between two rows of metrics")
    eval_every_tokens: int | None = option(
        None, valid=AT_LEAST_ONE, help="tokens between two evaluations; none: at the end only"
    )
    checkpoint_every_tokens: int | None = option(
        None, valid=AT_LEAST_ONE, help="tokens between two checkpoints; none: those of about two minutes' work"
    )
    checkpoint_every_seconds: float | None = option(
        None, valid=POSITIVE, help="save also when so many seconds have passed since the last checkpoint; none: do not"
    )
    keep_checkpoints: int = option(2, valid=AT_LEAST_ONE, help="newest checkpoints that are kept")
    keep_every_tokens: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        help="keep those at multiples of so many tokens as well, for good; none: the newest only",
    )
    tensorboard: bool = option(True, help="write the metrics for TensorBoard too")
    compile_cache: str | None = option(
        "~/.cache/lossgrid/xla", valid=PATH, help="folder of compiled programs; none: no cache"
    )
    # The mirror's own settings are its environment variables (experiments/store/wandb_mirror.py).
    wandb: str | None = option(None, valid=PROJECT, help="project of a Weights & Biases mirror of the metrics")
    stall_factor: float | None = option(
        30.0,
        valid=POSITIVE,
        help="steps, an evaluation or a save that take so many times their longest end the process; none: never",
    )
    stall_seconds: float = option(
        300.0, valid=POSITIVE, when=when_set("stall_factor"), help="but never before so many seconds"
    )


# Dataclasses of the sections of a run; those of `model` and `opt` are the family's and the optimizer's own.
SECTIONS = {
    "data": Data,
    "schedule": Schedule,
    "loss": Loss,
    "evaluation": Evaluation,
    "growth": Growth,
    "spikes": Spikes,
    "averaging": Averaging,
}


# What only training reads: a run that takes no step leaves it as it is.
OF_TRAINING = ("opt", "schedule", "loss", "spikes", "averaging")


def optimizer_options(opt: Any) -> type:
    """Return the dataclass of the section `opt`, which may name an optimizer. Raises InputError for an unknown one."""
    name = opt.get("name", optimizers.DEFAULT) if isinstance(opt, Mapping) else optimizers.DEFAULT
    return optimizers.load(name).Config
