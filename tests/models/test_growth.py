"""Growth operators: the reference's arrays, what preserves the function and what does not, bad targets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import schema
from experiments.training import growth, step
import models
from models import functional
from models.contract import ParamInfo, Role
from models.families import dense
from models.growing import check, maps, masks, operators, upcycling
from models.growing.layout import Layout
from models.growing.options import Growth
from sweeps.study import rules
from tests.support.families import TINY
from tests.support.paths import GOLDEN

LENGTH, VOCAB = 16, 61


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "growth_ops.npz")


def model(family="dense", **options):
    cfg = models.load(family).Config(**{**TINY[family], "unroll": False, **options}).resolve(VOCAB, LENGTH)
    cfg.check(LENGTH)
    return schema.Run(family, cfg, seq_len=LENGTH, batch_tokens=2 * LENGTH)


def larger(run, **options):
    return dataclasses.replace(run, model=dataclasses.replace(run.model, **options).resolve(VOCAB, LENGTH))


def trained(run, seed=0):
    """Parameters in which nothing is at its initial value: no norm at 1, no bias at 0."""
    draw = np.random.default_rng(seed)
    return {path: p + 0.1 * draw.normal(size=p.shape).astype(np.float32) for path, p in params_of(run).items()}


@functools.cache
def params_of(run):
    return {
        path: np.asarray(p)
        for path, p in jax.jit(lambda: functional.init_params(run.family, run.model, run.seed))().items()
    }


def plan_of(source, target, how):
    return operators.Plan(
        functional.layout(source.family, source.model), functional.layout(target.family, target.model), how, 0
    )


def grown(source, target, how, params=None):
    params = trained(source) if params is None else params
    fresh = params_of(dataclasses.replace(target, seed=7))
    if source.family != target.family:
        return upcycling.upcycle(
            functional.layout(source.family, source.model),
            functional.layout(target.family, target.model),
            params,
            fresh,
            how,
            0,
        )
    return plan_of(source, target, how).grow(params, fresh)


def arrays(params):
    return {path: jnp.asarray(value) for path, value in params.items()}


@functools.cache
def program(run):
    return jax.jit(lambda params, x: functional.apply(run.family, run.model, params, x).logits_BLV)


def logits(run, params):
    x = jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (2, LENGTH)))
    return np.asarray(program(run)(arrays(params), x))


def behind(plan, params, tokens, ramp=100):
    """Parameters as the model computes with them while a mask of `ramp` tokens rises."""
    return masks.masked(arrays(params), arrays(plan.added()), jnp.float32(tokens), ramp)


def assert_same(source, target, after, before=None):
    np.testing.assert_allclose(logits(target, after), logits(source, before or trained(source)), rtol=1e-5, atol=1e-5)


def assert_differs(source, target, after):
    assert np.abs(logits(target, after) - logits(source, trained(source))).max() > 1e-2


# --- against the reference


def lone(shape, new_shape, axes=("layers", "embed", "ff"), role=Role.READS, **how):
    """Grow the only parameter of a model."""
    cfg = dense.Config(width=6, depth=1, heads=1, ff=5).resolve(VOCAB, LENGTH)
    large = dataclasses.replace(cfg, width=9, ff=8)
    source = Layout("dense", cfg, {"lone": ParamInfo(role, axes, shape)})
    target = Layout("dense", large, {"lone": ParamInfo(role, axes, new_shape)})
    plan = operators.Plan(source, target, Growth(**how), 0)
    return lambda value, fresh: plan.grow({"lone": value}, {"lone": fresh})["lone"]


def test_direct_width_equals_the_reference(golden, monkeypatch):
    w = golden["direct_W"].T[None]  # ours are [in, out]
    copied = np.concatenate([np.arange(6), golden["direct_in_idx"]])
    monkeypatch.setattr(maps, "elements", lambda *_: copied)
    fresh = np.zeros((1, 9, 5), np.float32)
    wide = lone((1, 6, 5), (1, 9, 5))(w, fresh)
    np.testing.assert_allclose(wide[0].T, golden["direct_W_in"], rtol=1e-6)
    np.testing.assert_allclose(golden["direct_x_expanded"] @ wide[0], golden["direct_x"] @ w[0], rtol=1e-5, atol=1e-6)
    uneven = lone((1, 6, 5), (1, 9, 5), split="uneven")(w, fresh)
    np.testing.assert_allclose(golden["direct_x_expanded"] @ uneven[0], golden["direct_x"] @ w[0], rtol=1e-5, atol=1e-6)
    assert np.abs(uneven - wide).max() > 1e-2
    monkeypatch.setattr(maps, "elements", lambda *_: np.concatenate([np.arange(5), golden["direct_out_idx"]]))
    wide = lone((1, 6, 5), (1, 6, 8))(w, np.zeros((1, 6, 8), np.float32))
    np.testing.assert_array_equal(wide[0].T, golden["direct_W_out"])


def test_zero_width_equals_the_reference_but_for_its_norm(golden):
    fresh = golden["zero_target_init"].T[None]
    wide = lone((1, 6, 5), (1, 9, 8), width="zero")(golden["direct_W"].T[None], fresh)
    np.testing.assert_array_equal(wide[0].T, golden["zero_W"])
    norm = lone((1, 6), (1, 9), ("layers", "norm"), Role.NORM_SCALE, width="zero")
    ours = norm(golden["zero_norm_src"][None], golden["zero_norm_init"][None])[0]
    # The code leaves out the factor of its own paper, and so changes the function.
    np.testing.assert_allclose(ours[:6], golden["zero_norm_code"][:6] * (6 / 9) ** 0.5, rtol=1e-6)
    np.testing.assert_array_equal(ours[6:], golden["zero_norm_init"][6:])


def test_layer_maps_equal_the_reference(golden):
    for order, name in (("stack", "stack_6_24"), ("interpolate", "interp_6_24"), ("gradual", "gradual_6_12_24")):
        np.testing.assert_array_equal(maps.layers(6, 24, order), golden[name])
    assert maps.layers(6, 10, "stack", 1, 3).tolist() == [0, 1, 2, 1, 2, 1, 2, 3, 4, 5]
    assert maps.layers(6, 10, "interpolate", 4).tolist() == [0, 1, 2, 3, 4, 4, 4, 5, 5, 5]
    assert maps.layers(4, 6, "gradual").tolist() == [0, 1, 2, 3, 2, 3]


@pytest.mark.parametrize(
    ("source", "target", "order", "rate"),
    [(6, 24, "stack", 0.870), (8, 24, "stack", 0.913), (8, 24, "interpolate", 0.304)],
)
def test_connection_rates_are_the_published_ones(source, target, order, rate):
    assert maps.connection_rate(maps.layers(source, target, order)) == pytest.approx(rate, abs=5e-4)


def test_the_combination_starts_as_the_reference_does(golden):
    source = model(width=24, heads=3, kv_heads=3, depth=2)
    plan = plan_of(
        source, larger(source, width=36, heads=3, head_size=8, depth=4), Growth(width="learn", depth="learn")
    )
    start = plan.combination()
    depth = start["depth:blocks/mlp/up/kernel"]
    np.testing.assert_array_equal(depth, np.tile(np.eye(2), (2, 1)))
    assert golden["ligo_depth_init_12_6"].tolist() == np.tile(np.eye(6), (2, 1)).tolist()
    width, reference = start["width:embed:24"], golden["ligo_width_init_9_6"]
    assert width.shape == (36, 24) and reference[:6].tolist() == np.eye(6).tolist()
    np.testing.assert_array_equal(width[:24], np.eye(24))
    assert width[24:].std() == pytest.approx(36**-0.5, rel=0.15) and reference[6:].std() == pytest.approx(
        1 / 3, rel=0.35
    )


@pytest.mark.parametrize(
    ("params", "tokens", "published"),
    [(8e9, 15e12, 6.58e9), (7e9, 2e12, 11.11e9), (13e9, 2e12, 15.84e9), (70e9, 2e12, 42.48e9)],
)
def test_the_timing_law_gives_the_published_table(params, tokens, published):
    assert rules.stacking_tokens(params, tokens) == pytest.approx(published, abs=0.005e9)
    tags = {"target_params": params, "target_tokens": tokens}
    assert rules.stack_timing(model(), tags) == pytest.approx(published, rel=1e-3)
    with pytest.raises(KeyError, match="target_tokens"):
        rules.stack_timing(model(), {"target_params": params})


# --- what preserves the function


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


FAMILIES = [name if name in ("dense", "matmul_free") else slow(name) for name in models.family_names()]


ORDERS = ({"order": "stack"}, {"first": 1, "last": 2})


@pytest.mark.parametrize("operator", ["zero", "random"])
@pytest.mark.parametrize(
    ("family", "how"),
    [
        *(("dense", how) for how in ORDERS),
        ("matmul_free", {"order": "interpolate"}),
        *(slow(name, {"order": "interpolate"}) for name in models.family_names() if name != "matmul_free"),
    ],
    ids=str,
)
def test_zero_and_masked_depth_preserve(family, operator, how):
    source = model(family)
    target = larger(source, depth=6)
    plan = plan_of(source, target, Growth(depth=operator, **how))
    after = grown(source, target, plan.how)
    if operator == "random":
        assert_differs(source, target, after)
        after = behind(plan, after, 0)
    assert_same(source, target, after)
    out = next(path for path, info in functional.param_info(target.family, target.model).items() if info.writes)
    assert np.abs(np.asarray(after[out])).max() > 0 and len(after[out]) == 6


def test_a_mask_rises_from_none_to_all():
    source = model()
    target = larger(source, depth=6, width=48, heads=6, kv_heads=3)
    plan = plan_of(source, target, Growth(depth="random", width="random"))
    after = grown(source, target, plan.how)
    outs = [logits(target, behind(plan, after, t)) for t in (0, 50, 100, 500)]
    plain = logits(target, after)
    assert np.abs(outs[1] - outs[0]).max() > 1e-3 and np.abs(outs[1] - plain).max() > 1e-3
    np.testing.assert_array_equal(outs[2], plain)
    np.testing.assert_array_equal(outs[3], plain)
    no_ramp = behind(plan, after, 0, ramp=0)
    np.testing.assert_array_equal(logits(target, no_ramp), plain)


# Norms see sqrt(d / D) of what they saw, so their eps has to shrink as well for the function to be exactly the same.
WIDER = {
    "dense": {"width": 48, "heads": 6, "kv_heads": 3, "ff": 160, "norm_eps": 1e-5 * 32 / 48},
    "moe": {"width": 48, "heads": 6, "kv_heads": 3, "expert_ff": 64, "norm_eps": 1e-5 * 32 / 48},
    "min_gru": {"width": 48, "state": 40, "ff": 128, "norm_eps": 1e-5 * 32 / 48},
}
REGROUPED = {"width": 48, "heads": 8, "kv_heads": 2, "head_size": 8, "ff": 96, "norm_eps": 1e-5 * 32 / 48}


@pytest.mark.parametrize("operator", ["zero", "random"])
@pytest.mark.parametrize(
    ("family", "options", "wider"),
    [
        ("dense", {}, WIDER["dense"]),
        ("dense", {"tied": True, "position": "learned"}, REGROUPED),
        slow("dense", {"activation": "gelu", "bias": True, "tied": True}, WIDER["dense"]),
        *(slow(family, {}, WIDER[family]) for family in ("moe", "min_gru")),
    ],
    ids=str,
)
def test_zero_and_masked_width_preserve(family, options, wider, operator):
    source = model(family, **options)
    if "expert_ff" in wider:
        source = larger(source, expert_ff=48)
    target = larger(source, depth=6, **wider)
    how = Growth(width=operator, depth="zero")
    after = grown(source, target, how)
    if operator == "random":
        assert_differs(source, target, after)
        after = behind(plan_of(source, target, how), after, 0)
    assert_same(source, target, after)


def test_zero_width_does_not_preserve_where_norms_take_the_mean_away():
    source = model(norm="layer")
    target = larger(source, **WIDER["dense"])
    assert_differs(source, target, grown(source, target, Growth(width="zero")))


@pytest.mark.parametrize("split", ["even", "uneven"])
@pytest.mark.parametrize("family", ["dense", slow("moe"), slow("min_gru")])
def test_direct_width_preserves_where_every_channel_is_copied_equally(family, split):
    twice = {"width": 64, "heads": 8, "kv_heads": 4, "ff": 192, "expert_ff": 96, "state": 64}
    for tied in (False, True):
        source = model(family, tied=tied)
        old = source.model
        target = larger(source, **{k: 2 * getattr(old, k) for k in twice if getattr(old, k, None)})
        how = Growth(width_map="modulo", split=split)
        assert_same(source, target, grown(source, target, how))
        assert_differs(source, target, grown(source, target, Growth(split=split)))


# --- what does not


@pytest.mark.parametrize("family", FAMILIES)
def test_stacking_repeats_the_layers_and_changes_the_function(family):
    source = model(family)
    target = larger(source, depth=9)
    before, after = trained(source), grown(source, target, Growth())
    for path, names in functional.param_axes(source.family, source.model).items():
        if names[0] == "layers":
            for layer in range(9):
                np.testing.assert_array_equal(after[path][layer], before[path][layer % 3])
        else:
            np.testing.assert_array_equal(after[path], before[path])
    assert_differs(source, target, after)


def test_aki_takes_new_channels_from_the_next_layer():
    source = model(heads=2, kv_heads=2, head_size=16)
    target = larger(source, width=48, heads=3, kv_heads=3, ff=144)
    before, after, plain = trained(source), grown(source, target, Growth(width="aki")), grown(source, target, Growth())
    path, index = "blocks/mlp/up/kernel", maps.elements(96, 144, "random", 0)
    np.testing.assert_array_equal(after[path][:, :, :96], plain[path][:, :, :96])
    np.testing.assert_array_equal(after[path][:-1, :, 96:], plain[path][1:, :, 96:])
    np.testing.assert_array_equal(after[path][-1, :, 96:], plain[path][-1, :, 96:])
    np.testing.assert_array_equal(after["blocks/mlp_norm/scale"], plain["blocks/mlp_norm/scale"])
    assert after["blocks/mlp/down/kernel"].shape == (3, 144, 48) and len(index) == 144
    assert np.abs(before[path]).max() > 0
    assert_differs(source, target, after)


def test_a_copied_query_head_reads_a_copy_of_its_key_value_head():
    queries, groups = maps.heads((4, 2), (12, 3), "random", 0)
    assert groups.tolist()[:2] == [0, 1] and queries.reshape(3, 4)[:, :2].tolist() == [
        [2 * g, 2 * g + 1] for g in groups
    ]
    assert all(q // 2 == groups[i // 4] for i, q in enumerate(queries))


def test_noise_moves_the_matrices_of_the_layers_only():
    source = model()
    target = larger(source, depth=6)
    plain, noisy = (grown(source, target, Growth(noise=share)) for share in (0.0, 0.2))
    e = (noisy["blocks/mlp/up/kernel"] - 0.8 * plain["blocks/mlp/up/kernel"]) / 0.2
    assert e.std() == pytest.approx((2 / (5 * 32)) ** 0.5, rel=0.05) and abs(e.mean()) < 0.01
    e = (noisy["blocks/mlp/down/kernel"] - 0.8 * plain["blocks/mlp/down/kernel"]) / 0.2
    assert e.std() == pytest.approx(1 / (32**0.5 * 6), rel=0.05)
    for path in ("embed", "norm/scale", "blocks/mlp_norm/scale", "head/kernel"):
        np.testing.assert_array_equal(noisy[path], plain[path])


# --- parameter tokens


@pytest.mark.parametrize("score", ["l2_gelu", slow("gelu_l2")])
def test_parameter_tokens_with_zero_keys_preserve_only_with_the_old_tau(score):
    source = model("tokenformer", score=score)
    more = {"attention_tokens": 48, "ff_tokens": 160}
    kept = larger(source, **more)
    assert kept.model.attention_tau == source.model.attention_tau
    after = grown(source, kept, Growth(width="zero"))
    assert not after["blocks/query/key"][:, 32:].any() and after["blocks/query/value"][:, 32:].any()
    assert_same(source, kept, after)
    assert_differs(source, larger(source, attention_tau=None, ff_tau=None, **more), after)
    assert_differs(source, kept, grown(source, kept, Growth(width="random")))


# --- mixtures of experts


@pytest.mark.parametrize(
    "options",
    [
        {"experts": 4, "expert_ff": 96},
        {"experts": 4, "expert_ff": 96, "score": "sigmoid", "routed_scaling": 2.5, "bias_rate": 1e-3, "dense_first": 1},
        slow({"experts": 4, "expert_ff": 96, "score": "softmax_after", "dense_first": 1}),
        slow({"experts": 4, "expert_ff": 96, "shared_experts": 1, "router": "recurrent", "router_width": 8}),
        slow({"experts": 4, "expert_ff": 96, "mode": "capacity", "capacity_factor": 2.0}),
    ],
    ids=str,
)
def test_upcycling_preserves_for_any_router(options):
    """Copies of one feed-forward with weights that sum to 1; the router may be anything."""
    source = model("dense")
    target = larger(model("moe"), ff=source.model.ff, **options)
    after = grown(source, target, Growth())
    assert_same(source, target, after)
    draw = np.random.default_rng(3)
    router = {p: draw.normal(size=v.shape).astype(np.float32) for p, v in after.items() if "router" in p or "cell" in p}
    assert_same(source, target, after | router)
    assert after["blocks/mlp/router/out/kernel"].std() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("options", [{}, slow({"score": "sigmoid", "routed_scaling": 2.5})], ids=str)
def test_fine_grained_upcycling_preserves_where_whole_copies_are_chosen(options):
    source = model("dense")
    target = larger(model("moe"), ff=96, experts=16, top_k=8, expert_ff=24, **options)
    assert upcycling.slices(source.model, target.model) == 4
    after = grown(source, target, Growth(router_std=1.0))
    assert_same(source, target, after)
    assert_differs(source, larger(target, top_k=6), after)


def test_upcycling_without_renormalised_weights_does_not_preserve():
    source = model("dense")
    target = larger(model("moe"), ff=96, experts=4, expert_ff=96, renormalise=False)
    even = grown(source, target, Growth(router_std=0.0))
    assert_same(source, target, even)
    assert_differs(source, target, grown(source, target, Growth(router_std=2.0)))


# --- learn


def test_a_combination_starts_as_a_stack():
    source = model()
    target = larger(source, depth=6)
    plan, stacked = plan_of(source, target, Growth(depth="learn")), grown(source, target, Growth())
    with pytest.raises(ValueError, match="expand"):
        plan.grow(trained(source), params_of(target))
    for path, value in jax.jit(plan.expand)(plan.combination(), trained(source)).items():
        np.testing.assert_allclose(value, stacked[path], atol=1e-6)


@pytest.mark.slow
def test_a_combination_learns():
    source = dataclasses.replace(model(heads=2, kv_heads=2), batch_tokens=8 * LENGTH)
    target = dataclasses.replace(larger(source, depth=6), growth=Growth(depth="learn", learn_steps=30, learn_lr=3e-2))
    plan, before = plan_of(source, target, target.growth), trained(source)
    stacked = grown(source, target, Growth())
    text = np.tile(np.arange(LENGTH + 1) % 7, (8, 1))
    learned = growth.combine(target, plan, before, lambda _: text)

    def nats(params):
        return float(step.eval_step(target, arrays(params), jnp.asarray(text)).mean())

    assert nats(learned) < 0.9 * nats(stacked)
    wide = dataclasses.replace(
        larger(target, width=48, heads=3, kv_heads=3), growth=Growth("learn", width="learn", learn_steps=2)
    )
    wide = larger(wide, ff=128)
    plan = plan_of(source, wide, wide.growth)
    shapes = {path: value.shape for path, value in growth.combine(wide, plan, before, lambda _: text).items()}
    assert shapes == functional.layout(wide.family, wide.model).shapes
    keys = {key for key in plan.combination() if key.startswith("width")}
    assert keys == {f"width:{k}" for k in ("embed:32", "ff:96", "query", "key", "value")}


# --- moments


def test_moments_are_copied_whole_and_new_ones_are_zero():
    source = model()
    deep, wide = larger(source, depth=6), larger(source, width=48, heads=6, kv_heads=3)
    moment, fresh = trained(source), params_of
    stacked = plan_of(source, deep, Growth(noise=0.2)).grow(moment, fresh(deep), moments=True)
    np.testing.assert_array_equal(stacked["blocks/mlp/up/kernel"], np.tile(moment["blocks/mlp/up/kernel"], (2, 1, 1)))
    zero = plan_of(source, deep, Growth(depth="zero")).grow(moment, fresh(deep), moments=True)
    assert all(not value[3:].any() for path, value in zero.items() if path.startswith("blocks"))
    split = plan_of(source, wide, Growth()).grow(moment, fresh(wide), moments=True)
    np.testing.assert_array_equal(split["head/kernel"][:32], moment["head/kernel"])
    same = plan_of(source, source, Growth(width="zero", depth="zero", noise=0.5)).grow(moment, fresh(source))
    assert all(np.array_equal(same[path], moment[path]) for path in moment), "equal models: nothing grows"


# --- bad targets


@pytest.mark.parametrize(
    ("family", "options", "new", "how", "words"),
    [
        ("dense", {}, {"depth": 7}, {}, ["model.depth=7", "3 layers", "expected such as 6"]),
        ("dense", {}, {"depth": 2}, {}, ["model.depth=2", "less than", "3"]),
        ("dense", {}, {"width": 16, "head_size": 8}, {}, ["model.width=16", "32"]),
        ("dense", {}, {"depth": 8}, {"order": "interpolate", "depth": "zero"}, ["model.depth=8", "interpolate"]),
        ("dense", {}, {"depth": 6}, {"first": 2, "last": 5}, ["growth.first=2", "growth.last=5", "model.depth=3"]),
        ("dense", {}, {"depth": 6}, {"first": 1, "order": "gradual"}, ["gradual", "growth.first=1"]),
        ("dense", {}, {"activation": "gelu"}, {}, ["model.activation='gelu'", "'swiglu'"]),
        ("dense", {}, {"vocab": 90}, {}, ["model.vocab=90", "61"]),
        ("dense", {}, {"head_size": 16, "width": 64}, {}, ["model.head_size=16", "8"]),
        ("dense", {}, {"heads": 4, "kv_heads": 4}, {}, ["model.heads=4", "model.kv_heads=4", "query heads"]),
        ("tokenformer", {}, {"width": 64}, {}, ["model.width=64", "32"]),
        ("moe", {}, {"experts": 8}, {}, ["model.experts=8", "4"]),
    ],
)
def test_targets_that_cannot_be_grown_name_the_fields(family, options, new, how, words):
    source = model(family, **options)
    with pytest.raises(InputError) as error:
        plan_of(source, larger(source, **new), Growth(**how))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("moe", {"expert_ff": 36}, ["model.expert_ff=36", "model.ff=96"]),
        ("moe", {"expert_ff": 24, "experts": 6}, ["model.experts=6", "4 slices"]),
        ("moe", {"width": 64, "head_size": 8}, ["model.width=64", "32"]),
        ("min_gru", {}, ["family='min_gru'", "'dense'"]),
    ],
)
def test_families_that_cannot_follow_name_the_fields(family, options, words):
    target = model(family, **options)
    with pytest.raises(InputError) as error:
        check.check(("dense", model().model), (family, target.model), Growth())
    for word in words:
        assert word in str(error.value)
    with pytest.raises(InputError, match="upcycling"):
        check.check(("dense", model().model), ("moe", larger(model("moe"), expert_ff=96).model), Growth(depth="learn"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"depth": "stack"}, ["growth.depth='stack'", "direct"]),
        ({"order": "interplate"}, ["growth.order", "interpolate"]),
        ({"noise": 1.0}, ["growth.noise=1.0"]),
        ({"learn_steps": -1}, ["growth.learn_steps=-1"]),
        ({"ramp_tokens": 10}, ["growth.ramp_tokens=10", "random"]),
        ({"depth": "learn", "width": "zero"}, ["growth.depth='learn'", "growth.width='zero'"]),
        ({"optimizer": "warm"}, ["growth.optimizer='warm'", "fresh"]),
    ],
)
def test_bad_growth_names_the_field(how, words):
    with pytest.raises(InputError) as error:
        Growth(**how).check()
    for word in words:
        assert word in str(error.value)
