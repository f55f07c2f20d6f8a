"""Check a run and its execution: values that no run can have raise InputError, one line naming the field.

What one option may be, and when it has an effect, stands where it is declared (schema.py, models/option.py). Here are
the relations between options of several sections.
"""

import dataclasses
import math

from experiments.data import tasks
from experiments.run import identity
from experiments.run.schema import OF_TRAINING, Execution, Run, Schedule
from experiments.training import optimizers
from models.errors import InputError
from models.growing.options import Growth
from models.option import check_options

LEAST_SEQUENCES = 2  # that are evaluated: the standard error of one is not a number


def check(run: Run, execution: Execution = Execution()) -> None:
    """Check every option of a run and the relations between them. Raises InputError, one line naming the fields."""
    _check_sections(run, execution)
    _check_steps(run)
    _check_schedule(run)
    _check_growth(run)
    run.data.check()
    _check_evaluation(run)
    run.model.check(run.seq_len)
    _check_pairs(run)
    _check_transfer(run)
    _check_microbatches(run, execution.microbatches)


def _check_sections(run: Run, execution: Execution) -> None:
    """Check each option against its declaration. The model's and the growth's are checked by themselves."""
    check_options(run, "")
    check_options(run.opt, "opt")
    check_options(run.schedule, "schedule")
    check_options(run.loss, "loss")
    check_options(run.evaluation, "evaluation")
    check_options(run.spikes, "spikes")
    check_options(run.averaging, "averaging")
    check_options(execution, "execution")
    check_options(execution.mesh, "execution.mesh")


def _check_steps(run: Run) -> None:
    """Check that the run's tokens are at least one step, and that a step is whole sequences."""
    if run.batch_tokens % run.seq_len:
        raise InputError(f"batch_tokens={run.batch_tokens} is not a multiple of seq_len={run.seq_len}")
    if run.only_evaluates:
        _check_untrained(run)
    elif run.steps < 1:
        raise InputError(
            f"tokens={run.tokens} is less than half a step of batch_tokens={run.batch_tokens}; "
            "only a run with a parent may have 0"
        )


def _check_untrained(run: Run) -> None:
    """Check that a run that takes no step says nothing of how it would train."""
    idle = []
    defaults = []
    for section in (*OF_TRAINING, "growth"):
        for path, value, declared in identity.leaves(getattr(run, section), f"{section}."):
            changes_numbers = declared.get("numerics", True) and path != "growth.optimizer"
            if changes_numbers and value != declared["default"]:
                idle.append(f"{path}={value!r}")
                defaults.append(repr(declared["default"]))
    if idle:
        raise InputError(
            f"{', '.join(idle)}: of training, and has an effect only where tokens is above 0; here tokens=0: expected "
            f"{', '.join(defaults)}"
        )


def _check_schedule(run: Run) -> None:
    """Check that warm-up and cooldown fit into the run, and that the cooldown can reach its end."""
    schedule = run.schedule
    warmup = schedule.warmup_tokens
    decay = schedule.decay_tokens
    if warmup + decay > run.tokens:
        raise InputError(f"schedule.warmup_tokens={warmup} + schedule.decay_tokens={decay} exceed tokens={run.tokens}")
    if schedule.name == "wsd" and decay == 0:
        raise InputError("schedule.decay_tokens=0: expected the length of the cooldown for schedule.name='wsd'")
    if schedule.name == "power" and decay == 0:
        _check_no_cooldown(schedule)
    if schedule.decay_shape == "exponential" and schedule.final == 0:
        raise InputError("schedule.final=0 cannot be reached by schedule.decay_shape='exponential'")


def _check_no_cooldown(schedule: Schedule) -> None:
    """Check that a schedule that ends without a cooldown says nothing of it."""
    for field in dataclasses.fields(Schedule):
        value = getattr(schedule, field.name)
        if field.name in ("decay_shape", "final") and value != field.default:
            raise InputError(
                f"schedule.{field.name}={value!r} has an effect only where schedule.decay_tokens is above 0; "
                f"here it is 0: change that, or leave schedule.{field.name} at {field.default!r}"
            )


def _check_transfer(run: Run) -> None:
    """Check that the optimizer has multiples for a model whose learning rates follow its size."""
    if run.model.transfers and not optimizers.transfers(run.opt.name):
        raise InputError(
            f"model.parametrization={run.model.parametrization!r} has no learning rates for opt.name={run.opt.name!r}; "
            "expected 'standard'"
        )


def _check_growth(run: Run) -> None:
    """Check that a run that grows has something to grow from, and the time to do it."""
    growth = run.growth
    if run.parent is None:
        for field in dataclasses.fields(Growth):
            value = getattr(growth, field.name)
            if value != field.default:
                raise InputError(
                    f"growth.{field.name}={value!r} has an effect only where parent is set; here it is not"
                )
    growth.check()
    if growth.ramp_tokens > run.tokens:
        raise InputError(f"growth.ramp_tokens={growth.ramp_tokens} exceed tokens={run.tokens}")


def _check_pairs(run: Run) -> None:
    """Check that rows of pairs are the sequences of the run, and that the model has its source where theirs is."""
    pairs = run.data.pairs
    if not pairs:
        return
    if sum(pairs) != run.seq_len:
        raise InputError(f"data.pairs={pairs} are rows of {sum(pairs)} tokens; expected seq_len={run.seq_len}")
    if run.evaluation.seq_lens:
        raise InputError(
            f"evaluation.seq_lens={run.evaluation.seq_lens}: data.pairs={pairs} are rows of one length; expected none"
        )
    source = run.model.derived(run.seq_len).get("source", pairs[0])
    if source != pairs[0]:
        raise InputError(f"model.source={source}: data.pairs={pairs} have a source of {pairs[0]} tokens; expected that")


def _check_predictions(run: Run) -> None:
    """Check that nothing is asked that looks at every position, of a model that predicts a target alone."""
    evaluation = run.evaluation
    if run.model.predicts_everywhere:
        return
    if evaluation.positions > 1:
        raise InputError(
            f"evaluation.positions={evaluation.positions}: family={run.family!r} predicts targets alone, not every position; "
            "expected 1"
        )
    if evaluation.tasks:
        raise InputError(
            f"evaluation.tasks={evaluation.tasks}: family={run.family!r} has a source and a target at fixed positions, and no "
            "prompt; expected none"
        )


def _check_evaluation(run: Run) -> None:
    """Check that the held-out loss has a standard error, that tasks have names, and that weights belong to the corpora."""
    evaluation = run.evaluation
    if evaluation.tokens < LEAST_SEQUENCES * run.seq_len:
        raise InputError(
            f"evaluation.tokens={evaluation.tokens} must be at least {LEAST_SEQUENCES * run.seq_len}: "
            f"{LEAST_SEQUENCES} sequences of seq_len={run.seq_len}"
        )
    tasks.entries(evaluation.tasks)
    if evaluation.tasks and not run.model.causal:
        raise InputError(
            f"evaluation.tasks={evaluation.tasks}: an answer is scored by what stands before it, and in this model a token may "
            "depend on later ones; expected a causal model, or none"
        )
    _check_predictions(run)
    _check_lengths(run)
    weights = evaluation.weights
    if not weights:
        return
    corpora = len(run.data.corpus)
    if corpora == 1:
        raise InputError(
            f"evaluation.weights={weights} has an effect only where data.corpus names several texts; "
            f"here data.corpus={run.data.corpus}: expected none"
        )
    if len(weights) != corpora or not all(0 < weight < math.inf for weight in weights):
        raise InputError(
            f"evaluation.weights={weights}: expected {corpora} positive numbers, one per data.corpus, or none"
        )


def _check_lengths(run: Run) -> None:
    """Check that sequences divide into the stretches that are evaluated, and that the model takes the other lengths."""
    evaluation = run.evaluation
    if run.seq_len % evaluation.positions:
        raise InputError(f"evaluation.positions={evaluation.positions} does not divide seq_len={run.seq_len}")
    lengths = evaluation.seq_lens
    if len(set(lengths)) < len(lengths):
        raise InputError(f"evaluation.seq_lens={lengths} has a length twice; expected each once")
    if run.seq_len in lengths:
        raise InputError(
            f"evaluation.seq_lens={lengths}: loss_nats is that of seq_len={run.seq_len}; expected other lengths"
        )
    for length in lengths:
        if not 1 <= length <= evaluation.tokens:
            raise InputError(
                f"evaluation.seq_lens={lengths}: expected numbers from 1 to evaluation.tokens={evaluation.tokens}"
            )
        try:
            resolved = dataclasses.replace(run.model, **run.model.derived(run.seq_len))
            resolved.check(length)
        except InputError as error:
            raise InputError(f"evaluation.seq_lens={lengths}: {error}") from None


def _check_microbatches(run: Run, microbatches: int) -> None:
    """Check that a batch divides into the equal parts in which it goes through the model."""
    if microbatches == 1:
        return
    if run.batch % microbatches:
        raise InputError(
            f"batch_tokens / seq_len = {run.batch} sequences do not divide into execution.microbatches={microbatches}"
        )
    run.model.check_parts(run.seq_len)
