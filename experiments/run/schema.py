"""A run and how it is executed, as frozen, validated dataclasses; freeze() and fingerprint().

A `Run` is everything that can change the numbers of one training run; an `Execution` is where and how it is carried
out. Each option is declared once, in the dataclass that uses it; `get_config` (experiments/configs) makes a locked
ConfigDict from them and `freeze` turns that back and checks it.
"""

import dataclasses
from typing import Any

from experiments.data.options import Data
from models.growing.options import Growth
from models.mesh.mesh import MeshShape
from models.option import option


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019) on matrices only, after clipping by global norm."""

    name: str = "adamw"
    lr: float = option(2e-3, runtime=True)  # peak
    beta1: float = option(0.9, runtime=True)
    beta2: float = option(0.95, runtime=True)
    eps: float = option(1e-8, runtime=True)
    weight_decay: float = option(0.1, runtime=True)  # multiplied by the learning rate
    clip_norm: float | None = option(1.0, runtime=True)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate over tokens, as a factor of the peak: warm-up, body, decay."""

    name: str = "cosine"  # cosine | cosine_halved | wsd | constant
    warmup_tokens: int = option(0, runtime=True)
    warmup_start: float = option(0.01, runtime=True)  # factor at the first step
    decay_tokens: int = option(0, runtime=True)  # wsd: length of the cooldown, which ends with the run
    decay_shape: str = "sqrt"  # wsd: sqrt | linear | cosine | square | mirror_cosine | exponential
    final: float = option(0.1, runtime=True)  # factor at the end


@dataclasses.dataclass(frozen=True)
class Loss:
    """Next-token cross-entropy in nats plus weighted terms."""

    z_loss: float = option(0.0, runtime=True)  # coefficient of mean logsumexp(logits)^2 (PaLM: 1e-4)
    chunk: int | None = option(None, numerics=False)  # tokens whose logits a device has at a time; None: by memory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out loss at the end of a run (and on the way: execution.eval_every_tokens)."""

    tokens: int = 65_536  # at most; fewer when the corpus holds out fewer
    weights: tuple[float, ...] = ()  # share of each corpus in what is evaluated; empty: data.weights, or by size


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run. Token counts are rounded to whole steps of `batch_tokens`."""

    family: str
    model: Any
    data: Data = Data()
    opt: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    evaluation: Evaluation = Evaluation()
    growth: Growth = Growth()
    tokens: int = option(2_000_000, runtime=True)
    batch_tokens: int = 2_048
    seq_len: int = 128
    seed: int = option(0, runtime=True)
    parent: str | None = None  # fingerprint of the run whose last checkpoint this one starts from (see growth)

    @property
    def batch(self) -> int:
        """Sequences a step."""
        return self.batch_tokens // self.seq_len

    @property
    def steps(self) -> int:
        """Optimizer steps: the tokens in whole batches, rounded to the nearest."""
        return round(self.tokens / self.batch_tokens)


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where a run is carried out and what is kept. Never part of the fingerprint."""

    data_root: str = "data"
    parent_workdir: str | None = None  # folder of the parent: a run's, or of weights; None: beside the run's own
    mesh: MeshShape = MeshShape()
    cpu_devices: int | None = None  # simulated devices on a CPU; None: one per core this process may use
    # A step's batch goes through the model in so many equal parts, for the memory of one: the numbers of the whole batch.
    # On each device as many of its own sequences; weights that are split are gathered once a part.
    microbatches: int = 1
    offload: str = "none"  # none | optimizer: Adam's moments in the host's memory between updates; the same numbers
    packing: str = "auto"  # auto | map (trials one after the other on each device) | vmap (all at once)
    steps_per_dispatch: int | None = None  # None: about a quarter of a second's work
    log_every_steps: int = 10
    eval_every_tokens: int | None = None
    checkpoint_every_tokens: int | None = None  # None: at the end only
    checkpoint_every_seconds: float | None = 120.0  # and so often while a run is under way
    keep_checkpoints: int = 2
    tensorboard: bool = True
    compile_cache: str | None = "~/.cache/lossgrid/xla"
    wandb: str | None = None  # project of a Weights & Biases mirror of the metrics; its own settings are its variables'
    stall_factor: float | None = 30.0  # a step so many times slower than any before it ends the process (watchdog.py)
    stall_seconds: float = 300.0  # but never one faster than this
    spike_factor: float | None = None  # go back and leave out batches after such a loss spike; see spikes.py
    spike_limit: int = 3  # how often a run may do that


SECTIONS = {
    "data": Data,
    "opt": Optimizer,
    "schedule": Schedule,
    "loss": Loss,
    "evaluation": Evaluation,
    "growth": Growth,
}
