"""An optimizer is one file: every one, and a toy from outside, is split, packed, saved, resumed, offloaded and grown by it."""

import dataclasses
import sys
import types

import jax
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.configs import default, smoke
from experiments.run import config_file, freeze, identity
from experiments.store import record, stored_state
from experiments.store.train_state import named_leaves
from experiments.training import optimizers, program, rotated, slots, step
from experiments.training.optimizers import adamw
from tests.support.families import TINY
from tests.support.training import assert_same_run, run

# Lion (Chen et al. 2023), with a running mean of the sizes of vectors only, to have a state that leaves parameters out.
TOY = '''
"""Lion, for a test."""

import dataclasses

import jax
import optax

from experiments.training.transformations import Chain, clip_by_norm, decay_matrices
from models.option import BELOW_ONE, POSITIVE, option


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = option("toy_lion", choices=("toy_lion",))
    lr: float = option(3e-4, runtime=True, valid=POSITIVE)
    blend: float = option(0.9, runtime=True, valid=BELOW_ONE)
    memory: float = option(0.99, runtime=True, valid=BELOW_ONE)
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE)


def chain(options, parameters):
    def vectors(tree):
        return {path: len(parameters[path].axes) < 2 for path in tree}

    sign = optax.scale_by_lion(options.blend, options.memory)
    trace = optax.masked(optax.trace(0.5), vectors)
    return Chain(clip_by_norm(options.clip_norm), (sign, trace, decay_matrices(0.1, parameters)))
'''


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """The toy's file in a folder of its own, which optimizers are found in as well."""
    folder = tmp_path / "more optimizers"
    folder.mkdir()
    (folder / "toy_lion.py").write_text(TOY)
    monkeypatch.setattr(optimizers, "__path__", [*optimizers.__path__, str(folder)])
    yield
    sys.modules.pop("experiments.training.optimizers.toy_lion", None)
    vars(optimizers).pop("toy_lion", None)


OPTIMIZERS = optimizers.optimizer_names()
# Each compiles programs of its own. The rest are slow ones.
QUICK = ("muon", "adafactor")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in OPTIMIZERS]


@pytest.fixture
def lion(tiny):
    """A maker of tiny configs with the toy, or another optimizer."""

    def make(family="dense", name="toy_lion", **options):
        config = tiny(family)
        default.choose_optimizer(config, name)
        with config.ignore_type():
            for key, value in options.items():
                section, _, name = key.rpartition(".")
                (config[section] if section else config)[name] = value
        return config

    return make


def test_it_is_found_by_its_file_and_has_options_of_its_own(tiny, lion):
    assert optimizers.optimizer_names() == (*OPTIMIZERS, "toy_lion")
    config = lion(**{"opt.memory": 0.9})
    frozen, _ = freeze.freeze(config)
    assert frozen.opt.lr == 1e-2, "what was set in the config before stays set"
    assert (frozen.opt.blend, frozen.opt.memory) == (0.9, 0.9)
    assert {"optimizer": "toy_lion", "memory": 0.9}.items() <= record.columns(frozen).items()
    assert "eps" not in record.columns(frozen)
    again, _ = freeze.freeze(identity.to_dict(frozen))
    assert again == frozen
    adam, _ = freeze.freeze(tiny())
    assert identity.fingerprint(frozen, ()) != identity.fingerprint(adam, ())
    assert identity.signature(frozen) != identity.signature(adam)
    assert identity.signature(frozen) == identity.signature(freeze.freeze(lion(**{"opt.memory": 0.5}))[0])


def test_its_name_alone_is_another_fingerprint():
    """Every option at its own default: nothing but the name tells the two apart."""
    adam, _ = freeze.freeze({})
    toy, _ = freeze.freeze({"opt": {"name": "toy_lion"}})
    assert identity.fingerprint(adam, ()) != identity.fingerprint(toy, ())


@pytest.mark.parametrize(
    ("opt", "said"),
    [
        ({"name": "toy_lyon"}, "opt.name='toy_lyon' is not known; did you mean 'toy_lion'"),
        ({"name": "toy_lion", "eps": 1e-8}, "unknown config key opt.eps"),
        ({"name": "toy_lion", "memory": 1.0}, "opt.memory=1.0 must be a number from 0 to below 1"),
        ({"blend": 0.5}, "unknown config key opt.blend"),
    ],
)
def test_options_exist_only_for_their_optimizer(opt, said):
    with pytest.raises(InputError, match=said):
        freeze.freeze({"opt": opt})


def test_a_set_option_is_not_dropped_with_its_optimizer(tiny):
    with pytest.raises(InputError, match="opt.beta2=0.5 is no option of opt.name='toy_lion'"):
        default.choose_optimizer(tiny(**{"opt.beta2": 0.5}), "toy_lion")


def test_a_flag_chooses_it(monkeypatch):
    """`--config.opt.name=` gives the section its options, in whatever order flags come."""
    flags = ["--config.opt.memory=0.5", "--config.opt.clip_norm=none", "--config.opt.name=toy_lion", "--config.seed=3"]
    kept = config_file.check_arguments(["train", "--config=experiments/configs/smoke.py", *flags])
    assert kept == ["train", "--config=experiments/configs/smoke.py", "--config.seed=3"]
    monkeypatch.setattr(config_file.flags, "FLAGS", types.SimpleNamespace(config=smoke.get_config()))
    frozen, _ = config_file.frozen()
    assert (frozen.opt.name, frozen.opt.memory, frozen.opt.blend) == ("toy_lion", 0.5, 0.9)
    assert frozen.opt.clip_norm is None
    with pytest.raises(InputError, match="unknown config key opt.beta1"):
        config_file.check_arguments([*kept, "--config.opt.name=toy_lion", "--config.opt.beta1=0.5"])


def tokens_of(made, dispatch):
    """Random tokens of all steps of a dispatch, the same in every slot."""
    _, *shape = made.token_shape()
    tokens = np.random.default_rng(dispatch).integers(0, 257, shape)
    return np.stack([tokens.astype(np.uint16)] * made.slots)


def programmed(runs, execution, devices=1):
    return program.Program(runs[0], len(runs), execution, jax.devices()[:devices])


def after(made, runs, dispatches, start=None):
    """The state behind some dispatches of as many steps as the program takes, from a state in numpy or the first one."""
    state = made.init(runs) if start is None else jax.device_put(start, made.state_sharding)
    values = made.stack_values(runs)
    steps = np.full(made.slots, made.steps_per_dispatch, np.int32)
    for dispatch in dispatches:
        state, _ = made.train(state, values, tokens_of(made, dispatch), steps)
    return state


def in_numpy(state):
    return jax.tree.map(np.asarray, state)


# The first gradients are of a low rank, and axes along which none lies are any, in each program others. So many dispatches
# later, products of gradients have a full rank.
EARLY = range(6)
LATER = range(6, 9)  # with and without a look for axes


def of_kind(name):
    """Options with which an optimizer does in three steps all that it ever does."""
    return {"name": name} | ({"opt.every_steps": 2} if name == "soap" else {})


def both(alone, other, devices=1):
    """The states of two configs of one run behind the same steps from the same state, with products of full rank."""
    frozen, execution = freeze.freeze(alone)
    made = programmed([frozen], execution)
    start = in_numpy(after(made, [frozen], EARLY))
    mine = after(made, [frozen], LATER, start)
    frozen, execution = freeze.freeze(other)
    theirs = after(programmed([frozen], execution, devices), [frozen], LATER, start)
    return mine, theirs


def assert_close(one, other, rtol, atol):
    theirs = named_leaves(other)
    for leaf, mine in named_leaves(one).items():
        # Axes of unit length: those that carry a millionth of the gradient are known to three digits in float32.
        slack = 1e-2 if "_basis" in leaf else atol
        np.testing.assert_allclose(np.asarray(theirs[leaf]), np.asarray(mine), rtol=rtol, atol=slack, err_msg=leaf)


def test_its_state_is_split_as_its_parameters(lion):
    options = {"execution.steps_per_dispatch": 1, "model.vocab": 264}
    split = {"execution.mesh.fsdp": 2, "execution.mesh.tensor": 2}
    alone, state = both(lion(**options), lion(**options, **split), devices=4)
    _, lion_state, trace_state, _ = state.opt
    for path, parameter in state.params.items():
        assert lion_state.mu[path].sharding.spec == parameter.sharding.spec, path
    assert "tensor" in str(lion_state.mu["blocks/mlp/up/kernel"].sharding.spec)
    traced = [path for path, leaf in trace_state.inner_state.trace.items() if isinstance(leaf, jax.Array)]
    assert traced == ["norm/scale"], "the only vector that is not stacked"
    for path, parameter in alone.params.items():
        np.testing.assert_allclose(state.params[path], parameter, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", EVERY)
def test_every_one_is_split(name, lion):
    """Steps on a mesh of four are those of one device; what has a parameter's axes is split as it is."""
    options = of_kind(name) | {"execution.steps_per_dispatch": 1, "model.vocab": 264, "opt.lr": 1e-3}
    split = {"execution.mesh.fsdp": 2, "execution.mesh.tensor": 2}
    alone, state = both(lion(**options), lion(**options, **split), devices=4)
    for path, parameter in alone.params.items():
        np.testing.assert_allclose(state.params[path], parameter, atol=1e-5, err_msg=path)
    stacks = [leaf for leaf in jax.tree.leaves(state.opt) if leaf.ndim > 3]  # slots, layers, and a matrix
    assert bool(stacks) == (name != "adafactor"), "which has rows and columns of them"
    assert not any(leaf.sharding.is_fully_replicated for leaf in stacks)


@pytest.mark.parametrize("name", ["toy_lion", *EVERY])
def test_its_state_may_lie_with_the_host(name, lion):
    options = of_kind(name) | {"execution.steps_per_dispatch": 1, "opt.lr": 1e-3}
    near, far = both(lion(**options), lion(**options, **{"execution.offload": "optimizer"}))
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(far.opt)}
    assert ("pinned_host" in kinds) == (name != "adafactor"), "matrices do, rows and columns of them do not"
    assert_close(near, far, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_every_one_is_packed(name, lion):
    """Two runs in one program, one after the other or at once, the slow ones also on a mesh of four, do what each does alone."""
    runs = []
    for lr in (3e-4, 1e-3):
        options = of_kind(name) | {"opt.lr": lr, "execution.steps_per_dispatch": 2, "model.vocab": 264}
        frozen, execution = freeze.freeze(lion(**options))
        runs.append(frozen)
    ends = []
    starts = []
    for one in runs:
        made = programmed([one], execution)
        starts.append(in_numpy(after(made, [one], EARLY)))
        ends.append(in_numpy(after(made, [one], LATER, starts[-1])))
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *starts)
    alone = jax.tree.map(lambda *leaves: np.concatenate(leaves), *ends)
    places = [("map", execution.mesh, 1), ("vmap", execution.mesh, 1)]
    if name not in QUICK:
        split = dataclasses.replace(execution.mesh, trial=1, fsdp=2, tensor=2)
        places.append(("vmap", split, 4))
    for packing, mesh, devices in places:
        packed = dataclasses.replace(execution, packing=packing, mesh=mesh)
        made = programmed(runs, packed, devices)
        assert_close(alone, after(made, runs, LATER, together), rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_axes_of_a_population_are_turned_when_a_slot_is_due(lion, monkeypatch):
    """And of a slot whose steps are done none is due: a step whose axes are kept costs what it costs a run alone."""
    turns = []
    corrected = rotated._corrected

    def counted(products, basis):
        jax.debug.callback(lambda: turns.append(1))
        return corrected(products, basis)

    monkeypatch.setattr(rotated, "_corrected", counted)
    options = {"model.width": 8, "model.depth": 1, "execution.steps_per_dispatch": 6, "opt.every_steps": 3}
    frozen, execution = freeze.freeze(lion(name="soap", **options))
    runs = [frozen, frozen]
    made = programmed(runs, execution)
    values = made.stack_values(runs)
    on_a_device = slots.Slots(frozen, "vmap", microbatches=1, offload="none", noise_scale=False)
    steps = np.array([6, 3], np.int32)
    state, _ = jax.jit(on_a_device.train)(on_a_device.init(values), values, tokens_of(made, 0), steps)
    jax.effects_barrier()
    products = state.opt[1].inner_state
    stacks = jax.tree.leaves((products.left, products.right))
    of_a_turn = len(runs) * len(stacks)
    assert len(turns) == of_a_turn, "before the first slot's fourth step"


def interrupted(event):
    if event["event"] == "progress" and event["done"] >= 10:
        raise KeyboardInterrupt


OPTIONS = {"tokens": 256 * 15, "execution.checkpoint_every_tokens": 256 * 5, "execution.steps_per_dispatch": 5}
OPTIONS |= {"schedule.name": "constant", "opt.lr": 1e-3}


@pytest.mark.parametrize("name", EVERY)
def test_every_one_resumes_to_the_bit_and_grows(name, lion, tmp_path):
    options = {"name": name} | OPTIONS
    whole = run(lion(**options), tmp_path / "whole")
    assert whole["status"] == "complete"
    assert whole["columns"]["loss_nats"] < np.log(257), "it has learned something"
    with pytest.raises(KeyboardInterrupt):
        run(lion(**options), tmp_path / "again", interrupted)
    run(lion(**options), tmp_path / "again")
    assert_same_run(tmp_path / "whole", tmp_path / "again")

    child = options | {"parent": whole["fingerprint"], "execution.parent_workdir": str(tmp_path / "whole")}
    child["tokens"] = 256
    # An equal model goes on with the state, also where that has no rule of growth.
    asked = {} if optimizers.grows(name) else {"growth.optimizer": "grown"}
    longer = run(lion(**child | asked), tmp_path / "longer")
    assert longer["status"] == "complete" and longer["columns"]["growth_optimizer"] == asked.get("growth.optimizer")
    before = stored_state.digests(tmp_path / "whole" / "checkpoints", 15).keys()
    assert before == stored_state.digests(tmp_path / "longer" / "checkpoints", 1).keys()
    deep = child | {"model.depth": 2 * TINY["dense"]["depth"], "growth.optimizer": "grown"}
    if optimizers.grows(name):
        assert run(lion(**deep), tmp_path / "deep")["status"] == "complete"
    else:
        with pytest.raises(InputError, match=f"opt.name='{name}' has no rule .* expected growth.optimizer='fresh'"):
            run(lion(**deep), tmp_path / "deep")


def test_it_has_children_of_its_own_kind(tiny, lion, tmp_path):
    options = OPTIONS
    whole = run(lion(**options), tmp_path / "whole")
    names = stored_state.digests(tmp_path / "whole" / "checkpoints", 15)
    assert ".opt[1].mu['embed']" in names

    adam = run(tiny(**options), tmp_path / "adam")
    assert adam["columns"]["loss_nats"] != whole["columns"]["loss_nats"]

    child = options | {"parent": whole["fingerprint"], "execution.parent_workdir": str(tmp_path / "whole")}
    with pytest.raises(InputError, match="opt.name='adamw' cannot go on with the state of the parent's 'toy_lion'"):
        run(tiny(**child), tmp_path / "switched")
    deep = child | {"model.depth": 2 * TINY["dense"]["depth"], "growth.optimizer": "grown", "tokens": 256}
    assert run(lion(**deep), tmp_path / "deep")["status"] == "complete"


def test_old_checkpoints_go_on():
    """The names of AdamW's saved state, as they have been from the start."""
    frozen, _ = freeze.freeze({"model": {"width": 32, "heads": 4, "depth": 2}})
    assert isinstance(frozen.opt, adamw.Config)
    state = jax.eval_shape(lambda: step.init_state(frozen, frozen))
    moments = {f".opt[1].{moment}['{path}']" for moment in ("mu", "nu") for path in state.params}
    parameters = {f".params['{path}']" for path in state.params}
    assert named_leaves(state).keys() == moments | parameters | {".opt[1].count", ".step"}
