"""The contract of models/contract.py, on every family and its variants, found by name."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import schema
from experiments.store import record
from experiments.training import loss as losses
from experiments.training import step
import models
from models import accounting, functional
from models.blocks.stack import REMAT
from models.contract import Role
from models.errors import InputError
from models.mesh import rules
from models.numerics import parametrization
from sweeps.cost import hlo, hlo_flops
from tests.support.families import LARGE, LENGTH, SMOOTH, SOME, TINY, VARIANTS, VOCAB, configure, logits, make, tokens

CASES = [(family, name) for family in models.family_names() for name in VARIANTS.get(family, {"default": {}})]
# What is compiled without the slow tests: one variant a family, and those of another structure.
QUICK = {(family, next(iter(VARIANTS[family]))) for family in models.family_names()}
QUICK |= {("dense", "gpt2"), ("dense", "layerwise"), ("dense", "linear"), ("moe", "deepseek"), ("moe", "expert_choice")}
COMPILED = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


def test_every_family_has_a_tiny_config():
    assert set(models.family_names()) == set(TINY)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_every_parameter_says_what_it_does(family, variant):
    """Every model embeds, has one last norm, and in each sublayer of each layer something that writes to the stream."""
    run = configure(family, variant)
    infos = functional.param_info(run.family, run.model)
    by_role: dict[Role, list[str]] = {}
    for path, info in infos.items():
        by_role.setdefault(info.role, []).append(path)
    assert "embed" in by_role[Role.EMBED]
    assert len(by_role[Role.LAST_NORM_SCALE]) == 1
    assert (Role.HEAD in by_role) == (not run.model.tied)
    assert len(by_role[Role.WRITES]) >= 2
    for path in by_role[Role.WRITES]:
        assert infos[path].axes[0] == "layers" and infos[path].axes[-1] == "embed"


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_counts_equal_the_arrays(family, variant):
    run = configure(family, variant)
    params = jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed))
    account = models.load(family).account(run.model, LENGTH)
    assert sum(account.params.values()) == sum(p.size for p in params.values())
    assert record.ledger(run)["params_total"] == sum(p.size for p in params.values())
    assert all(account.active[group] <= count for group, count in account.params.items())


@pytest.mark.parametrize(("family", "variant"), COMPILED)
def test_flops_agree_with_the_compiler(family, variant):
    """Within 5% on an unrolled model large enough that element-wise work is small."""
    length = 64
    values = TINY[family] | VARIANTS.get(family, {}).get(variant, {}) | {"unroll": True}
    values |= LARGE.get(family, {"width": 256, "ff": 768})
    cfg = models.load(family).Config(**values).resolve(512, length)
    run = schema.Run(family, cfg, seq_len=length, batch_tokens=4 * length)
    shapes = jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed))
    compiled = (
        jax.jit(lambda p, x: functional.apply(run.family, run.model, p, x).logits_BLV)
        .lower(shapes, jnp.zeros((4, length), int))
        .compile()
    )
    account = models.load(family).account(cfg, length)
    ours = (sum(account.matmul.values()) + sum(account.attention.values())) * 4 * length
    if family == "moe":  # the program also multiplies rows that pad blocks and capacities
        padding = models.load(family).expert_rows(cfg, 4, length) / cfg.top_k - 1
        ours += account.matmul["experts"] * padding * 4 * length
        counted = hlo_flops.flops(hlo.Module(compiled.as_text()))  # the compiler counts the loop over blocks once
    else:
        counted = compiled.cost_analysis()["flops"]
    assert ours == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(("family", "variant"), COMPILED)
def test_causal(family, variant):
    """Changing a token leaves every earlier logit bit-identical, and changes its own; what says it is not causal is not."""
    run, params = make(family, variant)
    x = tokens()
    base = logits(run, params, x)
    if not run.model.causal:
        half = LENGTH // 2
        changed = logits(run, params, x.at[:, half:].set((x[:, half:] + 7) % VOCAB))
        assert not np.allclose(base[:, :half], changed[:, :half], atol=1e-5)
        return
    for position in (1, LENGTH // 2, LENGTH - 1):
        changed = logits(run, params, x.at[:, position].set((x[:, position] + 7) % VOCAB))
        np.testing.assert_array_equal(base[:, :position], changed[:, :position])
        assert not np.allclose(base[:, position:], changed[:, position:])


# Documents of one sequence of LENGTH tokens, by their first token: of one token, and over several chunks of attention.
STARTS = (0, 3, 4, 21)
IN_PLACES = ("switch", "gshard", "expert_choice")  # of an expert, for which all tokens of a sequence compete
ONE_DOCUMENT = ("encoder_decoder",)  # a row is a source and a target
ALONE_QUICK = {(family, next(iter(VARIANTS[family]))) for family in models.family_names() if family != "moe"}
ALONE_QUICK |= {("dense", "gpt2"), ("dense", "lns"), ("dense", "linear")}
MASKED = [
    pytest.param(*case, marks=() if case in ALONE_QUICK else pytest.mark.slow)
    for case in CASES
    if case[1] not in IN_PLACES and case[0] not in ONE_DOCUMENT
]


def packed_and_alone():
    """Return a sequence of documents, each with its separator 0 in front; and each alone, in the rows of a batch."""
    packed = 1 + tokens(1) % (VOCAB - 1)
    packed = packed.at[:, STARTS[1:]].set(0)
    alone = [jnp.roll(packed[0], -start) for start in STARTS]  # what follows does not matter to it
    return packed, jnp.stack(alone)


@pytest.mark.parametrize(("family", "variant"), MASKED)
def test_packed_documents_are_what_each_is_alone(family, variant):
    """Attention, its windows and chunks, recurrences and positions: in the forward pass and in gradients."""
    masked, params = make(family, variant, document_mask=True, separator=0, depth=2)
    run, _ = make(family, variant, depth=2)
    packed, alone = packed_and_alone()
    ends = (*STARTS[1:], LENGTH)
    weights = jax.random.normal(jax.random.key(0), (LENGTH, VOCAB))

    def summed(run, x, stretches):
        def total(params):
            y = functional.apply(run.family, run.model, params, x).logits_BLV
            pieces = [y[row, first:last] for row, first, last in stretches]
            return jnp.sum(weights * jnp.concatenate(pieces)), y

        return jax.jit(jax.grad(total, has_aux=True))(params)

    lengths = [end - start for start, end in zip(STARTS, ends, strict=True)]
    of_packed, together = summed(masked, packed, [(0, 0, LENGTH)])
    of_alone, apart = summed(run, alone, [(row, 0, length) for row, length in enumerate(lengths)])
    for row, (start, end) in enumerate(zip(STARTS, ends, strict=True)):
        np.testing.assert_allclose(together[0, start:end], apart[row, : end - start], rtol=1e-5, atol=1e-5)
    size = max(float(jnp.abs(gradient).max()) for gradient in of_alone.values())
    for path, gradient in of_alone.items():
        np.testing.assert_allclose(of_packed[path] / size, gradient / size, atol=1e-5, err_msg=path)
    assert not np.allclose(together[:, 5:], logits(run, params, packed)[:, 5:], atol=1e-5), "the mask does something"


@pytest.mark.parametrize("variant", IN_PLACES)
def test_documents_that_compete_for_experts_are_refused(variant):
    with pytest.raises(InputError, match=r"model\.document_mask=True has an effect only where model\.mode='dropless'"):
        make("moe", variant, document_mask=True, separator=0)


@pytest.mark.parametrize("family", models.family_names())
def test_dropout_is_drawn_for_each_sequence_and_only_with_keys(family):
    """What a sequence loses depends on its key alone; without keys the model is the one without dropout."""
    run, params = make(family, dropout=0.4)
    without, _ = make(family)
    keys = jax.random.split(jax.random.key(1), 4)
    x = jnp.broadcast_to(tokens(1), (4, LENGTH))

    @jax.jit
    def dropped(keys_B):
        hidden, _ = functional.model(run.family, run.model, params).hidden(x, keys_B=keys_B)
        return hidden

    y = dropped(keys)
    assert not np.allclose(y[0], y[1], atol=1e-2)
    np.testing.assert_allclose(dropped(keys[::-1]), y[::-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits(run, params, x), logits(without, params, x))


@pytest.mark.parametrize(("family", "variant"), COMPILED)
def test_batch_rows_are_independent(family, variant):
    run, params = make(family, variant)
    x = tokens()
    order = jnp.array([2, 0, 3, 1])
    whole = logits(run, params, x)
    np.testing.assert_allclose(logits(run, params, x[order]), whole[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "variant"), COMPILED)
def test_loss_at_initialisation_is_near_log_vocab(family, variant):
    run, params = make(family, variant)
    x = tokens(4, LENGTH + 1)
    nats, _ = losses.cross_entropy(logits(run, params, x[:, :-1]), x[:, 1:])
    assert float(nats.mean()) == pytest.approx(math.log(VOCAB), abs=0.1)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_every_parameter_has_logical_axes_with_rules(family, variant):
    run = configure(family, variant)
    params = jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed))
    axes = functional.param_axes(run.family, run.model)
    assert axes.keys() == params.keys()
    for path, names in axes.items():
        assert len(names) == params[path].ndim, path
        assert all(name in rules.RULES for name in names), path
    state = step.state_axes(run)
    flat = jax.tree.leaves(state, is_leaf=rules.is_axes)
    shapes = jax.tree.leaves(jax.eval_shape(lambda: step.init_state(run, run)))
    assert [len(names) for names in flat] == [leaf.ndim for leaf in shapes]


@pytest.mark.parametrize("family", models.family_names())
def test_memory_and_speed_options_change_no_number(family):
    """Scan and loop, every remat policy: one loss and one gradient."""
    run, params = make(family, **SMOOTH.get(family, {}))
    x = tokens(2, LENGTH + 1)

    def evaluate(**options):
        other = dataclasses.replace(run, model=dataclasses.replace(run.model, **options))

        def objective(params):
            return losses.cross_entropy(
                functional.apply(other.family, other.model, params, x[:, :-1]).logits_BLV, x[:, 1:]
            )[0].mean()

        return jax.jit(jax.value_and_grad(objective))(params)

    loss, grads = evaluate()
    for options in ({"unroll": True}, *({"remat": policy} for policy in REMAT[1:])):
        other_loss, other_grads = evaluate(**options)
        np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
        for path, grad in grads.items():
            np.testing.assert_allclose(grad, other_grads[path], rtol=1e-4, atol=1e-6, err_msg=f"{options} {path}")


@pytest.mark.parametrize("family", SOME)
def test_bfloat16_stays_finite(family):
    run, _ = make(family, dtype="bfloat16")
    run = dataclasses.replace(run, opt=dataclasses.replace(run.opt, lr=1e-2))
    state = jax.jit(lambda: step.init_state(run, run))()
    update = jax.jit(lambda s, x: step.train_step(run, run, s, x))
    history, batches = [], [tokens(4, LENGTH + 1, seed=i) for i in range(3)]
    for i in range(200):
        state, metrics = update(state, batches[i % 3])
        history.append(metrics["loss"])
    assert np.isfinite(history).all() and history[-1] < history[0]
    assert all(p.dtype == jnp.float32 for p in state.params.values())


def test_ledger_of_the_worked_example():
    """SPECS 0.2: V50304 d768 L12 H12 dh64 Hkv4 m2048 T1024, SwiGLU, untied."""
    cfg = models.load("dense").Config(width=768, depth=12, heads=12, kv_heads=4, ff=2048).resolve(50_304, 1_024)
    row = accounting.ledger(models.load("dense").account(cfg, 1_024), 1)
    assert row["params_total"] == 152_783_616
    assert row["flops_matmul"] == 684_785_664
    assert row["flops_total"] - row["flops_matmul"] == 113_246_208
    assert row["flops_causal"] - row["flops_matmul"] == 56_678_400
    norms = (2 * 12 + 1) * 768
    assert row["flops_kaplan"] == 452_984_832 + 6 * norms, "Kaplan's N here counts the norms"
    assert row["params_head"] == 38_633_472


def test_gpt2_count_is_the_closed_form():
    cfg = (
        models.load("dense")
        .Config(**{"width": 64, "depth": 3, "heads": 4} | VARIANTS["dense"]["gpt2"])
        .resolve(100, 50)
    )
    total = sum(models.load("dense").account(cfg, 50).params.values())
    assert total == 100 * 64 + 50 * 64 + 3 * (12 * 64**2 + 13 * 64) + 2 * 64


def test_unknown_family_names_the_nearest():
    with pytest.raises(ValueError, match="'dense'"):
        models.load("denes")


@pytest.mark.parametrize("family", models.family_names())
def test_the_scale_of_initial_weights_moves_every_matrix(family):
    """Twice init_std doubles all of them, bit by bit, so that an axis over it is one over the whole model."""
    run, params = make(family)
    _, doubled = make(family, init_std=2 * run.model.init_std)
    for path, axes in functional.param_axes(family, run.model).items():
        factor = 2 if parametrization.is_matrix(axes) and params[path].any() else 1
        np.testing.assert_array_equal(doubled[path], factor * params[path], err_msg=path)
