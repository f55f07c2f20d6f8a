"""Routed experts: equality with the references' arrays, and what has to hold whatever the weights."""

import dataclasses
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import schema
from experiments.training import loss as losses
from experiments.training import step
from models import functional
from models.blocks import dispatch, expert_matrices, routing
from models.blocks import mixture as mixtures
from models.blocks.transformer import Scales
from models.families import dense, moe
from tests.support.families import LENGTH, TINY, VARIANTS, VOCAB, logits, make, tokens
from tests.support.paths import GOLDEN
from tests.support.sharding import losses as train

ROUTING = np.load(GOLDEN / "moe_routing_tiny.npz")
RMOE = np.load(GOLDEN / "rmoe_router_tiny.npz")
BALANCE = ("load_balance", "sequence_balance", "router_z")


def config(**options):
    values = {"width": 16, "depth": 2, "heads": 2, "experts": 8, "top_k": 2, "expert_ff": 8} | options
    cfg = moe.Config(**values)
    cfg.check(LENGTH)
    return cfg.resolve(VOCAB, LENGTH)


def mixture(cfg, seed=0, std=0.4, **arrays):
    """One layer's mixture; `arrays` by path take the place of its initial values."""
    made = mixtures.Mixture(nnx.Rngs(params=seed), cfg, Scales(std, std, std))
    graphdef, state = nnx.split(made)
    flat = {"/".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(state)}
    assert arrays.keys() <= flat.keys(), sorted(flat)
    for path, array in arrays.items():
        assert flat[path].shape == array.shape, path
    flat |= {path: jnp.asarray(array) for path, array in arrays.items()}
    return nnx.merge(graphdef, nnx.from_flat_state([(tuple(p.split("/")), nnx.Param(v)) for p, v in flat.items()]))


def call(module, x, *more):
    """Output, router state, load; compiled."""
    graphdef, state = nnx.split(module)
    return jax.jit(lambda state, x, *more: nnx.merge(graphdef, state)(x, *more))(state, x, *more)


def inputs(seed=0, shape=(2, LENGTH, 16)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def experts(prefix):
    """Hugging Face's fused [E, 2F, D] and [E, D, F] as our three arrays."""
    gate, up = np.split(ROUTING[f"{prefix}/experts.gate_up_proj"], 2, axis=1)
    down = ROUTING[f"{prefix}/experts.down_proj"]
    return {"gate": gate.transpose(0, 2, 1), "up": up.transpose(0, 2, 1), "down": down.transpose(0, 2, 1)}


def test_the_goldens_are_what_is_assumed():
    values = json.loads(str(ROUTING["config"]))
    assert (values["experts"], values["top_k"], values["expert_ffn"], values["hidden"]) == (8, 2, 8, 16)


def sorted_choice(expert, weight):
    order = np.argsort(expert, axis=-1)
    return np.take_along_axis(expert, order, -1), np.take_along_axis(weight, order, -1)


# --- goldens


@pytest.mark.parametrize("kernel", ["blocks", "ragged"])
@pytest.mark.parametrize("renormalise", [False, True])
def test_olmoe(renormalise, kernel):
    cfg = config(renormalise=renormalise, kernel=kernel)
    layer = mixture(cfg, **experts("olmoe"), **{"router/out/kernel": ROUTING["olmoe/gate.weight"].T})
    x = jnp.asarray(ROUTING["x"])
    y, _, load = call(layer, x)
    name = f"olmoe_norm{int(renormalise)}"
    np.testing.assert_allclose(y, ROUTING[f"{name}/y"], rtol=1e-4, atol=1e-5)
    z, _ = layer.router(x, None, None)
    np.testing.assert_allclose(z.reshape(18, 8), ROUTING["olmoe/logits"], rtol=1e-4, atol=1e-5)
    expert, weight, _ = routing.choose(z, 2, "softmax", renormalise)
    np.testing.assert_array_equal(expert.reshape(18, 2), ROUTING[f"{name}/topk_idx"])
    np.testing.assert_allclose(weight.reshape(18, 2), ROUTING[f"{name}/topk_w"], rtol=1e-4)
    scale = routing.published_scale("hugging_face", 2)
    np.testing.assert_allclose(scale * routing.load_balance(load), ROUTING["olmoe/lb_loss_hf"], rtol=1e-5)
    np.testing.assert_allclose(load.router_z, ROUTING["olmoe/z_loss_unscaled"], rtol=1e-5)


def deepseek(**options):
    options = {"score": "sigmoid", "routed_scaling": 2.5, "shared_experts": 1, "bias_rate": 1e-3} | options
    shared = {name: ROUTING[f"dsv3/shared_experts.{name}_proj.weight"].T for name in ("gate", "up", "down")}
    arrays = experts("dsv3") | {f"shared/{name}/kernel": array for name, array in shared.items()}
    arrays |= {"router/out/kernel": ROUTING["dsv3/gate.weight"].T}
    return mixture(config(**options), **arrays, **{"router/bias": ROUTING["dsv3/gate.e_score_correction_bias"]})


@pytest.mark.parametrize("kernel", ["blocks", "ragged"])
def test_deepseek_v3(kernel):
    layer, x = deepseek(kernel=kernel), jnp.asarray(ROUTING["x"])
    y, _, load = call(layer, x)
    np.testing.assert_allclose(y, ROUTING["dsv3/y"], rtol=1e-4, atol=1e-5)
    z, _ = layer.router(x, None, None)
    np.testing.assert_allclose(z.reshape(18, 8), ROUTING["dsv3/logits"], rtol=1e-4, atol=1e-5)
    bias = layer.router.bias[...]
    expert, weight, _ = routing.choose(z.reshape(18, 8), 2, "sigmoid", True, 2.5, bias)
    expert, weight = sorted_choice(np.asarray(expert), np.asarray(weight))
    np.testing.assert_array_equal(expert, ROUTING["dsv3/topk_idx_sorted"])
    np.testing.assert_allclose(weight, ROUTING["dsv3/topk_weight_sorted"], rtol=1e-4)
    np.testing.assert_array_equal(load.chosen_E, ROUTING["dsv3/load"])
    after = routing.balanced_bias(bias, load.chosen_E, 1e-3)
    np.testing.assert_allclose(after, ROUTING["dsv3/bias_after_update_u0.001"], rtol=1e-6)
    np.testing.assert_allclose(load.sequence_balance, ROUTING["dsv3/seq_balance_per_sequence"].mean(), rtol=1e-5)


def test_who_is_dropped():
    count = dispatch.slots(18, 2, 8, 1.0)
    assert count == int(ROUTING["olmoe/cap1.0_C"])
    chosen = jnp.asarray(ROUTING["olmoe_norm0/topk_idx"])
    for priority in ("token", "slot"):
        row = dispatch.seats(chosen, 8, count, priority)
        np.testing.assert_array_equal(row < 8 * count, ROUTING[f"olmoe/cap1.0_keep_{priority}major"])
        kept = np.asarray(row)[np.asarray(row) < 8 * count]
        assert len(set(kept)) == len(kept), "no two share a slot"
        np.testing.assert_array_equal(kept // count, np.asarray(chosen)[np.asarray(row) < 8 * count])


def test_experts_choose():
    gate, token = routing.expert_choice(jax.nn.softmax(jnp.asarray(ROUTING["olmoe/logits"])), 4)
    assert dispatch.choice_slots(18, 2, 8) == 4
    theirs = sorted_choice(ROUTING["expert_choice/token_idx"], ROUTING["expert_choice/gate"])
    for ours, golden in zip(sorted_choice(np.asarray(token), np.asarray(gate)), theirs, strict=True):
        np.testing.assert_allclose(ours, golden, rtol=1e-4)


def rmoe():
    """The three layers of the golden and the cell that they share."""

    def cell_arrays(side, letter):
        kernel = np.concatenate([RMOE[f"gru/weight_{letter}{gate}"].T for gate in "rzn"], axis=1)
        bias = np.concatenate([RMOE[f"gru/bias_{letter}{gate}"] for gate in "rzn"])
        return {(side, "kernel"): nnx.Param(jnp.asarray(kernel)), (side, "bias"): nnx.Param(jnp.asarray(bias))}

    cell = mixtures.Cell(nnx.Rngs(params=0), 8)
    flat = cell_arrays("input", "i") | cell_arrays("hidden", "h")
    nnx.update(cell, nnx.from_flat_state(list(flat.items())))
    cfg = config(router="recurrent", router_width=8, experts=4, expert_ff=24)
    made = []
    for i in range(3):
        arrays = {
            ours: np.stack([RMOE[f"layer{i}/experts.{e}.{theirs}.weight"].T for e in range(4)])
            for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
        }
        arrays |= {"router/down/kernel": RMOE[f"layer{i}/weight1"].T, "router/out/kernel": RMOE[f"layer{i}/weight2"].T}
        made.append(mixture(cfg, **arrays))
    return made, cell


def test_rmoe():
    made, cell = rmoe()
    h, loads = jnp.zeros((2, 5, 8)), []
    for i, layer in enumerate(made):
        x = jnp.asarray(RMOE[f"x{i}"])
        z, _ = layer.router(x, h, cell)
        y, h, load = jax.jit(layer)(x, h, cell)
        np.testing.assert_allclose(z.reshape(10, 4), RMOE[f"logits{i}"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(h.reshape(10, 8), RMOE[f"h{i}"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(y, RMOE[f"y{i}"], rtol=1e-4, atol=1e-5)
        expert, weight, _ = routing.choose(z.reshape(10, 4), 2, "softmax", True)
        np.testing.assert_array_equal(expert, RMOE[f"topk_idx{i}"])
        np.testing.assert_allclose(weight, RMOE[f"topk_w{i}"], rtol=1e-4)
        loads.append(load)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loads)
    run, _ = make("moe", balance_layers="pooled", experts=4)
    aux = moe.Model(run.model, nnx.Rngs(params=0))._aux(stacked, routing.balance_terms(stacked))
    np.testing.assert_allclose(2 * aux["load_balance"], RMOE["lb_loss_topk2"], rtol=1e-5)


# --- what has to hold whatever the weights


def loop(layer, x):
    """Every expert on every token, weighted by what the router chose."""
    cfg, z = layer.cfg, layer.router(x, None, None)[0]
    bias = None if layer.router.bias is None else layer.router.bias[...]
    groups = (cfg.n_group, cfg.topk_group)
    expert, weight, _ = routing.choose(z, cfg.top_k, cfg.score, cfg.renormalise, cfg.routed_scaling, bias, groups)
    y = jnp.zeros_like(x)
    for e in range(cfg.experts):
        h = jax.nn.silu(x @ layer.gate[e]) * (x @ layer.up[e])
        y += jnp.where(expert == e, weight, 0.0).sum(axis=-1, keepdims=True) * (h @ layer.down[e])
    return y


@pytest.mark.parametrize("kernel", ["blocks", "ragged"])
@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (1, {"experts": 5, "top_k": 3, "score": "softmax_after"}),
        (2, {"experts": 16, "top_k": 1, "renormalise": False}),
        (3, {"experts": 3, "top_k": 3, "score": "sigmoid", "routed_scaling": 2.0}),
        (4, {"experts": 8, "n_group": 4, "topk_group": 2, "bias_rate": 1e-3, "score": "sigmoid"}),
    ],
)
def test_dropless_equals_a_loop_over_experts_with_gradients(seed, options, kernel):
    """Also where one expert gets everything and others nothing."""
    layer = mixture(config(**options, kernel=kernel), seed=seed, std=0.3)
    graphdef, state = nnx.split(layer)
    probe = inputs(99)

    def objective(state, x, function):
        return jnp.sum(probe * function(nnx.merge(graphdef, state), x))

    routed, looped = (
        jax.jit(jax.value_and_grad(lambda s, x, f=f: objective(s, x, f))) for f in (lambda layer, x: layer(x)[0], loop)
    )
    for skew in (0.0, 3.0):
        x = inputs(seed) + skew
        ours, theirs = routed(state, x), looped(state, x)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours[1], theirs[1])


def test_experts_are_not_copied_for_each_block():
    """Four blocks an expert, and as many copies of its matrices and of their gradients: less than one set is there."""
    layer = mixture(config(width=64, expert_ff=64, experts=16, kernel="blocks"))
    graphdef, state = nnx.split(layer)
    x = jnp.ones((1, 64, 64))

    def objective(state, x):
        y, _, _ = nnx.merge(graphdef, state)(x)
        return jnp.sum(y * y)

    compiled = jax.jit(jax.grad(objective)).lower(state, x).compile()
    expert_bytes = 3 * 16 * 64 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < expert_bytes


@pytest.mark.parametrize("experts", [1, 3, 64])
def test_places_count_those_before_to_the_same_expert(experts):
    expert_A = np.random.default_rng(experts).integers(0, experts, 200)
    place_A, chosen_E = dispatch.places(jnp.asarray(expert_A), experts)
    before = [int(np.sum(expert_A[:i] == expert)) for i, expert in enumerate(expert_A)]
    np.testing.assert_array_equal(place_A, before)
    np.testing.assert_array_equal(chosen_E, np.bincount(expert_A, minlength=experts))


def test_places_are_found_without_a_row_of_numbers_for_each_assignment():
    """With 512 experts they would be the largest array of a layer."""
    assignments = 4096
    expert_A = jax.ShapeDtypeStruct((assignments,), np.int32)
    compiled = jax.jit(dispatch.places, static_argnums=1).lower(expert_A, 512).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * 4 * assignments


def test_the_order_of_experts_does_not_matter():
    cfg, x = config(n_group=1), inputs()
    layer = mixture(cfg)
    order = np.random.default_rng(0).permutation(8)
    other = mixture(
        cfg,
        gate=layer.gate[order],
        up=layer.up[order],
        down=layer.down[order],
        **{"router/out/kernel": layer.router.out.kernel[:, order]},
    )
    (y, _, load), (same, _, moved) = call(layer, x), call(other, x)
    np.testing.assert_allclose(y, same, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(load.chosen_E[order], moved.chosen_E)
    assert not np.allclose(call(mixture(cfg, gate=layer.gate[order]), x)[0], y), "the test can fail"


@pytest.mark.parametrize("priority", ["token", "slot"])
def test_a_large_capacity_drops_nothing(priority):
    x = inputs()
    y, _, load = call(mixture(config()), x)
    same, _, full = call(mixture(config(mode="capacity", capacity_factor=8.0, priority=priority)), x)
    np.testing.assert_allclose(y, same, rtol=1e-5, atol=1e-6)
    assert float(full.dropped) == 0
    tight, _, half = call(mixture(config(mode="capacity", capacity_factor=0.5, priority=priority)), x)
    assert 0.5 <= float(half.dropped) < 1 and not np.allclose(y, tight)
    np.testing.assert_array_equal(load.chosen_E, half.chosen_E)


def test_dropping_leaves_the_other_weights():
    """What a token loses is exactly the share of its dropped experts."""
    x, cfg = inputs(), config(mode="capacity", capacity_factor=0.5)
    layer = mixture(cfg)
    z, _ = layer.router(x, None, None)
    expert, weight, _ = routing.choose(z, 2, "softmax", True)
    count = dispatch.slots(LENGTH, 2, 8, 0.5)
    row = jax.vmap(lambda e: dispatch.seats(e, 8, count, "token"))(expert)
    h = jax.nn.silu(jnp.einsum("BLD,EDF->BLEF", x, layer.gate[...])) * jnp.einsum("BLD,EDF->BLEF", x, layer.up[...])
    each = jnp.einsum("BLEF,EFD->BLED", h, layer.down[...])
    picked = jnp.take_along_axis(each, expert[..., None], axis=2)
    expected = jnp.sum(jnp.where(row < 8 * count, weight, 0.0)[..., None] * picked, axis=2)
    np.testing.assert_allclose(call(layer, x)[0], expected, rtol=1e-4, atol=1e-5)


def test_one_expert_is_a_dense_feed_forward():
    run, params = make("moe", experts=1, top_k=1)
    plain = dense.Config(**{k: v for k, v in TINY["moe"].items() if k != "experts"}, unroll=False).resolve(
        VOCAB, LENGTH
    )
    assert run.model.expert_ff == plain.ff
    renamed = {}
    for path, value in params.items():
        if path.startswith("blocks/mlp/") and "router" not in path:
            renamed[f"{path}/kernel"] = value[:, 0]
        elif "router" not in path:
            renamed[path] = value
    x = tokens()
    expected = logits(schema.Run("dense", plain, seq_len=LENGTH), renamed, x)
    np.testing.assert_allclose(logits(run, params, x), expected, rtol=1e-5, atol=1e-6)


def test_every_assignment_is_counted():
    expert = jnp.asarray(np.random.default_rng(0).integers(0, 8, 96))
    place, chosen = dispatch.places(expert, 8)
    assert int(chosen.sum()) == 96
    np.testing.assert_array_equal(chosen, np.bincount(expert, minlength=8))
    start = np.cumsum(chosen) - chosen
    np.testing.assert_array_equal(np.argsort(start[expert] + place), np.argsort(expert, stable=True))
    for counts in ([96, *[0] * 7], [12] * 8, [1] * 7 + [89]):
        blocks, size = expert_matrices.block_rows(96, 8, "blocks")
        assert sum(-(-c // size) for c in counts) <= blocks


def test_experts_that_choose_have_equal_loads():
    layer = mixture(config(mode="expert_choice"))
    y, _, load = call(layer, inputs())
    np.testing.assert_array_equal(load.chosen_E, dispatch.choice_slots(2 * LENGTH, 2, 8))
    z = layer.router(inputs(), None, None)[0].reshape(-1, 8)
    gate, token = routing.expert_choice(jax.nn.softmax(z), 12)
    assert float(load.dropped) == pytest.approx(1 - len(np.unique(token)) / (2 * LENGTH), abs=1e-6)
    x, expected = inputs().reshape(-1, 16), np.zeros((2 * LENGTH, 16))
    for e in range(8):
        h = jax.nn.silu(x[token[e]] @ layer.gate[e]) * (x[token[e]] @ layer.up[e])
        np.add.at(expected, token[e], gate[e][:, None] * (h @ layer.down[e]))
    np.testing.assert_allclose(y.reshape(-1, 16), expected, rtol=1e-4, atol=1e-5)


# --- balance


def test_load_balance_is_one_at_balance_and_top_k_in_the_other_form():
    chosen, even = jnp.full(8, 6), jnp.full(8, 1 / 8)
    zero = jnp.zeros(())
    load = routing.Load(chosen, even, zero, zero, zero, zero)
    assert float(routing.load_balance(load)) == pytest.approx(1.0)
    for top_k in (1, 2, 4):
        hugging_face = 8 * float(jnp.sum(chosen / (48 / top_k) * even))
        ours = float(routing.load_balance(load)) * routing.published_scale("hugging_face", top_k)
        assert ours == pytest.approx(hugging_face) == pytest.approx(top_k)
    assert routing.published_scale("switch", 4) == 1
    worst = load._replace(chosen_E=jnp.array([48, *[0] * 7]), probability_E=jnp.eye(8)[0])
    assert float(routing.load_balance(worst)) == pytest.approx(8.0)


def test_bias_update_is_a_step_against_the_load():
    bias, chosen = jnp.linspace(-1, 1, 8), jnp.array([0, 3, 6, 6, 6, 6, 9, 12])
    moved = np.asarray(routing.balanced_bias(bias, chosen, 0.5) - bias)
    np.testing.assert_allclose(moved, [0.5, 0.5, 0, 0, 0, 0, -0.5, -0.5], atol=1e-6)
    assert abs(moved.sum()) <= 8 * 0.5
    for even in (1, 7, 4_097):
        np.testing.assert_array_equal(routing.balanced_bias(bias, jnp.full(8, even), 0.5), bias)


def test_bias_chooses_but_does_not_weigh():
    z = inputs(shape=(40, 8))
    expert, weight, _ = routing.choose(z, 2, "sigmoid", True, 2.5)
    same, unchanged, _ = routing.choose(z, 2, "sigmoid", True, 2.5, jnp.full(8, 0.3))
    np.testing.assert_array_equal(expert, same)
    np.testing.assert_array_equal(weight, unchanged)
    forced, _, _ = routing.choose(z, 2, "sigmoid", True, 2.5, jnp.eye(8)[3] * 10)
    assert (np.asarray(forced)[:, 0] == 3).all()


def test_groups_limit_the_choice():
    z = inputs(shape=(64, 8))
    expert, _, mask = routing.choose(z, 2, "sigmoid", True, groups=(4, 1))
    assert (np.asarray(expert)[:, 0] // 2 == np.asarray(expert)[:, 1] // 2).all()
    best = np.asarray(jax.nn.sigmoid(z)).reshape(64, 4, 2).sum(-1).argmax(-1)
    np.testing.assert_array_equal(np.asarray(expert)[:, 0] // 2, best)
    assert (np.asarray(mask).sum(-1) == 2).all()


def train_step(**options):
    run, params = make("moe", "deepseek", **options)
    run = dataclasses.replace(run, opt=dataclasses.replace(run.opt, weight_decay=0.5))
    state = jax.jit(lambda: step.init_state(run, run))()
    return run, params, *jax.jit(lambda s, x: step.train_step(run, run, s, x))(state, tokens(4, LENGTH + 1))


def test_a_step_sets_the_bias_and_reports_the_load():
    run, params, state, metrics = train_step()
    path = "blocks/mlp/router/bias"
    moved = np.asarray(state.params[path] - params[path])
    np.testing.assert_allclose(np.abs(moved)[moved != 0], 1e-3, rtol=1e-4)
    assert moved.any() and moved.shape == (2, 8)
    output = functional.apply(run.family, run.model, params, tokens(4, LENGTH + 1)[:, :-1])
    for name in ("max_violation", "dropped", "router_entropy", "load_balance"):
        assert {f"{name}/1", f"{name}/2"} <= metrics.keys() and f"{name}/0" not in metrics, "layer 0 is dense"
        np.testing.assert_allclose(metrics[f"{name}/1"], output.metrics[f"{name}/1"], rtol=1e-5)
    assert float(metrics["max_violation/1"]) > 0
    np.testing.assert_allclose(
        metrics["load_balance"], np.mean([metrics["load_balance/1"], metrics["load_balance/2"]]), rtol=1e-6
    )


def test_coefficients_reach_the_loss_and_its_gradient():
    run, params = make("moe")
    x = tokens(4, LENGTH + 1)

    def total(params, coefficients):
        output = functional.apply(run.family, run.model, params, x[:, :-1])
        weights = dataclasses.replace(run.model, **dict(zip(BALANCE, coefficients, strict=True)))
        return losses.objective(output.logits_BLV, x[:, 1:], schema.Loss(), output.aux, weights)[0], output.aux

    # Row 0: no term. Row i: the i-th alone.
    each = jax.vmap(jax.value_and_grad(total, has_aux=True), in_axes=(None, 0))
    coefficients = 10 * jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
    (totals, aux), grads = jax.jit(each)(params, coefficients)
    assert set(aux) == set(BALANCE)
    kernel = grads["blocks/mlp/router/out/kernel"]
    for i, name in enumerate(BALANCE, 1):
        assert float(totals[i] - totals[0]) == pytest.approx(10 * float(aux[name][0]), rel=1e-3)
        assert not np.allclose(kernel[i], kernel[0], rtol=1e-2), name


def test_reductions_over_layers():
    values = {}
    for kind in ("mean", "sum", "pooled"):
        run, params = make("moe", balance_layers=kind)
        values[kind] = jax.jit(lambda p, run=run: functional.apply(run.family, run.model, p, tokens()).aux)(params)
    for name in BALANCE:
        assert float(values["sum"][name]) == pytest.approx(3 * float(values["mean"][name]), rel=1e-5)
    assert float(values["pooled"]["load_balance"]) < float(values["mean"]["load_balance"])


# --- the recurrent router


def test_gradient_crosses_layers_through_the_routers_state():
    made, cell = rmoe()
    x, h = jnp.asarray(RMOE["x0"]), jnp.zeros((2, 5, 8))

    def later(first):
        _, state = first(x, h, cell)
        return jnp.sum(jnp.sin(made[1].router(x, state, cell)[0]))

    graphdef, state = nnx.split(made[0].router)
    grads = jax.grad(lambda state: later(nnx.merge(graphdef, state)))(state)
    assert float(jnp.abs(grads["down"]["kernel"][...]).max()) > 1e-3


def test_the_model_hands_the_routers_state_to_the_next_layer():
    """Experts that write nothing leave only the state to tell layer 1 of layer 0's router."""
    run, params = make("moe", "rmoe")
    params["blocks/mlp/down"] = jnp.zeros_like(params["blocks/mlp/down"])
    path = "blocks/mlp/router/down/kernel"
    entropy = jax.jit(
        lambda p: [
            functional.apply(run.family, run.model, p, tokens()).metrics[f"router_entropy/{y}"] for y in range(3)
        ]
    )
    params |= {"blocks/mlp/router/out/kernel": 50 * params["blocks/mlp/router/out/kernel"]}
    base, changed = (np.array(entropy(params | {path: params[path].at[1].multiply(c)})) for c in (1.0, 30.0))
    assert base[0] == changed[0]
    assert (np.abs(base - changed)[1:] > 1e-4).all()


def test_layers_decouple_without_hidden_weights():
    made, cell = rmoe()
    cell.hidden.kernel[...] = jnp.zeros((8, 24))
    bias = jnp.zeros(24).at[8:16].set(-1e9)  # the update gate is shut: nothing is carried
    cell.hidden.bias[...], cell.input.bias[...] = bias, jnp.zeros(24)
    x, some = jnp.asarray(RMOE["x1"]), inputs(shape=(2, 5, 8))
    first, second = (made[1].router(x, h, cell)[0] for h in (some, jnp.zeros((2, 5, 8))))
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert not np.allclose(*(rmoe()[0][1].router(x, h, rmoe()[1])[0] for h in (some, jnp.zeros((2, 5, 8)))))


def test_permuting_tokens_commutes_with_the_recurrent_router():
    made, cell = rmoe()
    x, h, order = jnp.asarray(RMOE["x1"]), inputs(shape=(2, 5, 8)), jnp.array([3, 0, 4, 1, 2])
    z, state = made[1].router(x, h, cell)
    moved, moved_state = made[1].router(x[:, order], h[:, order], cell)
    np.testing.assert_allclose(z[:, order], moved, atol=1e-6)
    np.testing.assert_allclose(state[:, order], moved_state, atol=1e-6)


# --- the whole model


@pytest.mark.parametrize("variant", ["deepseek", "rmoe"])
def test_scan_loop_and_remat_agree(variant):
    run, params = make("moe", variant)
    x = tokens(2, LENGTH + 1)

    def evaluate(**options):
        other = dataclasses.replace(run, model=dataclasses.replace(run.model, **options))

        def objective(params):
            output = functional.apply(other.family, other.model, params, x[:, :-1])
            total, _ = losses.objective(output.logits_BLV, x[:, 1:], schema.Loss(), output.aux, other.model)
            return total, (output.metrics, output.state)

        return jax.jit(jax.value_and_grad(objective, has_aux=True))(params)

    other = evaluate(unroll=True, remat="full")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), evaluate(), other)


def test_counts_of_the_worked_example():
    """SPECS 2.3: width 1024, 64 experts of 256, 8 chosen, one shared."""
    cfg = moe.Config(width=1024, depth=1, heads=16, experts=64, top_k=8, expert_ff=256, shared_experts=1)
    account = moe.account(cfg.resolve(100, 64), 64)
    groups = ("router", "experts", "shared")
    assert sum(account.params[group] for group in groups) == 51_183_616
    assert sum(account.active[group] for group in groups) == 7_143_424
    assert sum(account.matmul[group] for group in groups) == 2 * 7_143_424
    capacity = dataclasses.replace(cfg, mode="capacity", capacity_factor=2.0).resolve(100, 64)
    padded = moe.account(capacity, 64).conventions["capacity"]
    plain = 3 * (sum(account.matmul.values()) + sum(account.attention.values()))
    assert padded == pytest.approx(plain + 3 * account.matmul["experts"])


def test_recurrent_router_has_the_papers_parameters():
    run, _ = make("moe", "rmoe")
    D, E, p, L = 32, 4, 8, 3
    assert moe.account(run.model, LENGTH).params["router"] == L * (D * p + p * E) + 6 * p * p + 6 * p


def test_ragged_rows_are_not_padded():
    """On a TPU: three ragged products of as many rows as there are assignments."""
    layer = mixture(config(kernel="ragged"))
    text = str(jax.make_jaxpr(lambda x: layer(x)[0])(inputs()))
    rows = 2 * LENGTH * 2
    assert text.count(f":f32[{rows},8] = ragged_dot") == 2 and text.count(f":f32[{rows},16] = ragged_dot") == 1
    assert moe.expert_rows(layer.cfg, 2, LENGTH) == 2
    assert moe.expert_rows(config(kernel="blocks"), 2, LENGTH) > 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top_k": 9}, r"model.top_k=9 .* model.experts=8"),
        ({"n_group": 3}, r"model.experts=8 is not divisible by model.n_group=3"),
        ({"n_group": 4, "topk_group": 5}, r"model.topk_group=5 .* model.n_group=4"),
        ({"n_group": 8, "topk_group": 1}, r"model.top_k=2 is more than the 1 experts"),
        ({"expert_ff": 0}, r"model.expert_ff=0 must be at least 1"),
        ({"experts": 0}, r"model.experts=0 must be at least 1"),
        ({"mode": "drop"}, r"model.mode='drop' is not known; did you mean|known"),
        ({"score": "softmx"}, r"model.score='softmx' is not known; did you mean 'softmax'"),
        ({"router": "gru"}, r"model.router='gru' is not known"),
        ({"capacity_factor": 0.0}, r"model.capacity_factor=0.0 must be a positive number"),
        ({"load_balance": -1.0}, r"model.load_balance=-1.0 must be zero or a positive number"),
        ({"dense_first": 2}, r"model.dense_first=2 must be less than model.depth=2"),
        ({"top_k": 1}, r"model.top_k=1: .* model.renormalise=False"),
        (
            {"mode": "expert_choice", "bias_rate": 0.1},
            r"model.bias_rate=0.1 has an effect only where model.mode='dropless' or 'capacity'",
        ),
    ],
)
def test_bad_options_are_one_line(options, text):
    with pytest.raises(InputError, match=text) as error:
        config(**options)
    assert "\n" not in str(error.value)


def test_what_is_not_causal_says_so():
    assert config().causal and config(mode="capacity").causal
    assert moe.Config(mode="capacity", priority="slot", top_k=1, renormalise=False).causal
    assert not config(mode="capacity", priority="slot").causal
    assert not config(mode="expert_choice").causal


# --- on a mesh


@pytest.mark.parametrize(
    ("variant", "mesh"),
    [
        ("olmoe", {"expert": 4}),
        ("deepseek", {"data": 2, "fsdp": 2, "expert": 2}),
        pytest.param("rmoe", {"trial": 2, "expert": 2, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param("gshard", {"data": 2, "expert": 2, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param("expert_choice", {"data": 2, "fsdp": 2, "expert": 2}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "x".join(f"{k}{v}" for k, v in value.items()),
)
def test_split_experts_train_to_the_same_losses(tiny, variant, mesh):
    """Few and small steps: a choice is discrete, so that a rounding error can in the end pick another expert."""
    options = {f"model.{name}": value for name, value in VARIANTS["moe"][variant].items()}
    options |= {"model.vocab": 264, "model.depth": 2, "opt.lr": 2e-3}
    one, whole, _ = train([tiny("moe", **options)], 3, jax.devices()[:1])
    options |= {f"execution.mesh.{name}": size for name, size in mesh.items()} | {"execution.packing": "vmap"}
    split, state, program = train([tiny("moe", **options)] * (4 if "trial" in mesh else 1), 3)
    assert program.slots // program.groups == (2 if "trial" in mesh else 1)
    assert one[0, 0] - one[0, 2] > 0.05, "something is learned"
    np.testing.assert_allclose(split, np.repeat(one, len(split), 0), rtol=1e-5)
    assert program.mesh.shape["expert"] == mesh["expert"]
    up = state.params["blocks/mlp/up"]
    assert up.addressable_shards[0].data.shape[2] == up.shape[2] // mesh["expert"], "experts are really split"
    if variant == "deepseek":
        bias = "blocks/mlp/router/bias"
        assert np.abs(whole.params[bias]).max() > 1e-3
        np.testing.assert_allclose(state.params[bias][:1], whole.params[bias], atol=1e-7)


@pytest.mark.slow
def test_trials_mapped_at_once_equal_solo(tiny):
    options = [{"seed": 0, "model.depth": 2}, {"seed": 1, "model.depth": 2, "model.load_balance": 0.5}]
    solo = [train([tiny("moe", **o)], 6, jax.devices()[:1])[0][0] for o in options]
    packed, _, program = train(
        [tiny("moe", **o, **{"execution.packing": "vmap"}) for o in options], 6, jax.devices()[:1]
    )
    assert program.packing == "vmap" and program.groups == 1
    np.testing.assert_allclose(packed, np.array(solo), rtol=1e-5)


@pytest.mark.parametrize("rows", [256, 200])
def test_the_tpus_kernel_multiplies_each_row_with_its_own_matrix(rows):
    """Step by step on a CPU, forward and backward; an expert without rows, sizes that no tile divides."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(rows, 96)).astype(np.float32), rng.normal(size=(4, 96, 80)).astype(np.float32)
    cotangent = rng.normal(size=(rows, 80)).astype(np.float32)
    sizes = jnp.asarray([rows // 2, 0, 37, rows - rows // 2 - 37], jnp.int32)
    expected, pull = jax.vjp(lambda x, w: jax.lax.ragged_dot(x, w, sizes), x, w)
    found, other = jax.vjp(lambda x, w: expert_matrices.grouped(x, w, sizes, interpret=True), x, w)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    for got, want in zip(other(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
