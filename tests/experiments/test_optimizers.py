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
from experiments.training import optimizers, program, step
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
EVERY = [pytest.param(name, marks=() if name in ("muon", "adafactor") else pytest.mark.slow) for name in OPTIMIZERS]


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


def drawn_tokens(made):
    tokens = np.zeros(made.token_shape(), np.uint16)
    tokens[:, 0] = np.random.default_rng(0).integers(0, 257, tokens[:, 0].shape)
    return tokens


def one_step(config, devices=1):
    """The state after one step, and the program."""
    frozen, execution = freeze.freeze(config)
    made = program.Program(frozen, 1, execution, jax.devices()[:devices])
    values = made.stack_values([frozen])
    state, _ = made.train(made.init([frozen]), values, drawn_tokens(made), np.ones(1, np.int32))
    return state, made


def test_its_state_is_split_as_its_parameters(lion, tiny):
    options = {"execution.steps_per_dispatch": 1, "model.vocab": 264}
    split = {"execution.mesh.fsdp": 2, "execution.mesh.tensor": 2}
    state, _ = one_step(lion(**options, **split), devices=4)
    _, lion_state, trace_state, _ = state.opt
    for path, parameter in state.params.items():
        assert lion_state.mu[path].sharding.spec == parameter.sharding.spec, path
    assert "tensor" in str(lion_state.mu["blocks/mlp/up/kernel"].sharding.spec)
    traced = [path for path, leaf in trace_state.inner_state.trace.items() if isinstance(leaf, jax.Array)]
    assert traced == ["norm/scale"], "the only vector that is not stacked"
    alone, _ = one_step(lion(**options))
    for path, parameter in alone.params.items():
        np.testing.assert_allclose(state.params[path], parameter, atol=1e-5, err_msg=path)
    adam, _ = one_step(tiny(**options))
    moved = np.abs(np.asarray(adam.params["embed"]) - np.asarray(alone.params["embed"]))
    assert moved.max() > 1e-6, "another optimizer"


@pytest.mark.parametrize("name", EVERY)
def test_every_one_is_split(name, lion):
    """Parameters after a step on a mesh of four are those of one device; what has a parameter's axes is split as it is."""
    options = {"name": name, "execution.steps_per_dispatch": 1, "model.vocab": 264, "opt.lr": 1e-3}
    split = {"execution.mesh.fsdp": 2, "execution.mesh.tensor": 2}
    state, _ = one_step(lion(**options, **split), devices=4)
    alone, _ = one_step(lion(**options))
    for path, parameter in alone.params.items():
        np.testing.assert_allclose(state.params[path], parameter, atol=1e-5, err_msg=path)
    stacks = [leaf for leaf in jax.tree.leaves(state.opt) if leaf.ndim > 3]  # slots, layers, and a matrix
    assert bool(stacks) == (optimizers.kept_bytes(name) > 0)
    assert not any(leaf.sharding.is_fully_replicated for leaf in stacks)


@pytest.mark.parametrize("name", ["toy_lion", *EVERY])
def test_its_state_may_lie_with_the_host(name, lion):
    options = {"name": name, "execution.steps_per_dispatch": 1}
    near, _ = one_step(lion(**options))
    far, _ = one_step(lion(**options, **{"execution.offload": "optimizer"}))
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(far.opt)}
    assert ("pinned_host" in kinds) == (optimizers.kept_bytes(name) > 0), "matrices do, rows and columns of them do not"
    theirs = comparable(far)
    for leaf, one in comparable(near).items():
        np.testing.assert_allclose(np.asarray(one), np.asarray(theirs[leaf]), rtol=1e-4, atol=1e-6, err_msg=leaf)


def comparable(state):
    """Leaves by name, without the axes of SOAP: those along which no gradient lies yet are any, in each program others."""
    return {name: leaf for name, leaf in named_leaves(state).items() if "_basis" not in name}


@pytest.mark.parametrize("name", EVERY)
def test_every_one_is_packed(name, lion):
    """Two runs in one program, one after the other or at once, do what each does alone."""
    runs = []
    for lr in (1e-3, 3e-3):
        frozen, execution = freeze.freeze(lion(**{"name": name, "opt.lr": lr, "execution.steps_per_dispatch": 2}))
        runs.append(frozen)
    steps = 1 if name == "soap" else 2  # its second goes along axes that are any
    states = {}
    for packing in ("map", "vmap"):
        packed = dataclasses.replace(execution, packing=packing)
        made = program.Program(runs[0], 2, packed, jax.devices()[:1])
        states[packing] = comparable(stepped(made, runs, steps))
    for slot, one in enumerate(runs):
        made = program.Program(one, 1, execution, jax.devices()[:1])
        for leaf, alone in comparable(stepped(made, [one], steps)).items():
            for packed in states.values():
                np.testing.assert_allclose(alone[0], packed[leaf][slot], rtol=1e-3, atol=1e-5, err_msg=leaf)


def stepped(made, runs, steps):
    """The state after so many steps, in numpy."""
    tokens = np.random.default_rng(0).integers(0, 257, made.token_shape()[1:]).astype(np.uint16)
    tokens = np.stack([tokens] * made.slots)
    state, _ = made.train(made.init(runs), made.stack_values(runs), tokens, np.full(made.slots, steps, np.int32))
    return jax.tree.map(np.asarray, state)


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
    assert run(lion(**child), tmp_path / "longer")["status"] == "complete", "an equal model goes on with the state"
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
