"""Options of the dense family: where norms stand, layers of unequal size, linear attention, windows."""

import dataclasses
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.training import step
from models import functional
from models.blocks import layers, linear_attention, residual, stack
from models.blocks.attention import attention
from models.families import dense, moe
from tests.support.families import LENGTH, TINY, VARIANTS, VOCAB, logits, make, tokens
from tests.support.paths import GOLDEN
from tests.support.sharding import losses as train

PLACEMENTS = ("pre", "post", "sandwich", "deepnorm", "mix", "lns")
NAMES = {"post": "post", "pre": "pre", "sandwich": "sandwich", "mix": "post_pre", "lns": "lns"}  # ours: the golden's


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "norm_placement_tiny.npz")


def tiny_blocks(golden, placement):
    """Four blocks with the weights of the golden file: graph definition, parameters by path."""
    cfg = dense.Config(width=16, depth=4, heads=2, ff=24, norm_eps=1e-6, norm_placement=placement).resolve(8, 7)
    blocks = stack.stack(lambda rngs: dense.Block(rngs, cfg), nnx.Rngs(params=0), 4)
    graphdef, state = nnx.split(blocks)
    norms = ["n1", "n2", "n3", "n4"] if placement == "sandwich" else ["n1", None, "n2", None]
    names = {f"attention/{ours}/kernel": f"{ours[0]}_proj" for ours in ("query", "key", "value", "out")}
    names |= {f"mlp/{ours}/kernel": f"{ours}_proj" for ours in ("gate", "up", "down")}
    paths = ("attention_norm/scale", "attention_norm/after/scale", "mlp_norm/scale", "mlp_norm/after/scale")
    names |= {path: norm for path, norm in zip(paths, norms, strict=True) if norm}
    params = {path: np.stack([golden[f"layer{i}/{name}"].T for i in range(4)]) for path, name in names.items()}
    assert {"/".join(path) for path, _ in nnx.to_flat_state(state)} == params.keys()
    return graphdef, {path: jnp.asarray(value) for path, value in params.items()}


def every_layer(graphdef, params, x, unroll):
    """Outputs of all layers, stacked."""
    state = nnx.from_flat_state([(tuple(path.split("/")), nnx.Param(value)) for path, value in params.items()])
    blocks, numbers = nnx.merge(graphdef, state), jnp.arange(1, 5)

    def call(block, x, layer):
        return (block(x, layer),) * 2

    return stack.fold_stack(call, blocks, x, numbers, unroll=unroll, remat="none")[1]


def by_hand(params, x, placement):
    """The same, written from the equations: one head at a time, one layer after the other."""

    def norm(x, weight):
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * weight

    def attention(x, w):
        def turn(x):  # [B, 7, 8]
            angle = np.arange(7)[:, None] * 1e4 ** (-np.arange(0, 8, 2) / 8)
            a, b = x[..., :4], x[..., 4:]
            return jnp.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

        out = []
        for h in range(2):
            q, k, v = (x @ w[f"attention/{name}/kernel"][:, 8 * h : 8 * h + 8] for name in ("query", "key", "value"))
            scores = jnp.where(np.tri(7, dtype=bool), turn(q) @ turn(k).swapaxes(1, 2) / 8**0.5, -jnp.inf)
            out.append(jax.nn.softmax(scores) @ v)
        return jnp.concatenate(out, -1) @ w["attention/out/kernel"]

    def mlp(x, w):
        return (jax.nn.silu(x @ w["mlp/gate/kernel"]) * (x @ w["mlp/up/kernel"])) @ w["mlp/down/kernel"]

    outputs = []
    for i in range(4):
        w = {path: value[i] for path, value in params.items()}
        for name, sublayer in (("attention", attention), ("mlp", mlp)):
            n, after = w[f"{name}_norm/scale"], w.get(f"{name}_norm/after/scale")
            if placement == "post" or (placement == "mix" and i == 0):
                x = norm(x + sublayer(x, w), n)
            elif placement == "deepnorm":
                x = norm(8**0.25 * x + sublayer(x, w), n)
            elif placement == "sandwich":
                x = x + norm(sublayer(norm(x, n), w), after)
            else:
                x = x + sublayer(norm(x, n) * ((i + 1) ** -0.5 if placement == "lns" else 1), w)
        outputs.append(x)
    return jnp.stack(outputs)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_norm_placement_equals_the_reference(golden, placement):
    """Outputs of all layers; gradients those of the equations, which give the same outputs."""
    graphdef, params = tiny_blocks(golden, placement)
    x = jnp.asarray(golden["x"])
    weigh = jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)

    def evaluate(form):
        def objective(params, x):
            outputs = form(params, x)
            return (outputs[-1] * weigh).sum(), outputs

        (_, outputs), grads = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, x)
        return outputs, grads

    ours, grads = evaluate(lambda p, x: every_layer(graphdef, p, x, unroll=False))
    if placement in NAMES:
        for i in range(4):
            theirs = golden[f"out/{NAMES[placement]}/layer{i}"]
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-4, atol=1e-5)
    outputs, expected = evaluate(lambda p, x: by_hand(p, x, placement))
    np.testing.assert_allclose(ours, outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads[1], expected[1], rtol=1e-3, atol=1e-5)
    for path, grad in expected[0].items():
        np.testing.assert_allclose(grads[0][path], grad, rtol=1e-3, atol=1e-5, err_msg=path)


def test_pre_norm_without_sublayers_is_the_identity(golden):
    graphdef, params = tiny_blocks(golden, "pre")
    params |= {path: 0 * params[path] for path in ("attention/out/kernel", "mlp/down/kernel")}
    x = jnp.asarray(golden["x"])
    np.testing.assert_array_equal(every_layer(graphdef, params, x, True)[-1], x)


def test_norm_placements_meet_where_they_should():
    """One set of parameters: mix of share 0 and 1, LNS in the first layer, LNS as norm weights."""
    x = tokens()

    def run_of(placement, depth=3, **options):
        return make("dense", norm_placement=placement, depth=depth, norm="layer", bias=True, **options)

    run, params = run_of("pre")
    draw = np.random.default_rng(1)
    params = {path: p + 0.3 * draw.normal(size=p.shape).astype(np.float32) for path, p in params.items()}
    pre, post = logits(run, params, x), logits(run_of("post")[0], params, x)
    assert not np.allclose(pre, post, atol=0.1)
    np.testing.assert_allclose(logits(run_of("mix", mix_share=0.0)[0], params, x), pre, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(logits(run_of("mix", mix_share=1.0)[0], params, x), post, rtol=1e-5, atol=2e-5)
    between = logits(run_of("mix", mix_share=0.34)[0], params, x)
    assert not np.allclose(between, pre, atol=0.1) and not np.allclose(between, post, atol=0.1)
    scaled = logits(run_of("lns")[0], params, x)
    assert not np.allclose(scaled, pre, atol=0.1)
    factor = np.arange(1, 4)[:, None] ** -0.5
    folded = {path: p * factor if "_norm/" in path and path.startswith("blocks") else p for path, p in params.items()}
    np.testing.assert_allclose(scaled, logits(run, folded, x), rtol=1e-4, atol=1e-5)
    first = {path: p[:1] if path.startswith("blocks") else p for path, p in params.items()}
    np.testing.assert_allclose(
        logits(run_of("lns", 1)[0], first, x), logits(run_of("pre", 1)[0], first, x), rtol=1e-6, atol=1e-6
    )


def test_mix_share_is_rounded_down():
    for share, depth, post in ((0.25, 12, 3), (0.25, 7, 1), (0.29, 100, 29), (1.0, 5, 5)):
        cfg = dense.Config(norm_placement="mix", mix_share=share, depth=depth, width=8).resolve(8, 8)
        norm = residual.Residual(nnx.Rngs(params=0), cfg)
        assert sum(bool(norm._is_post(jnp.asarray(layer))) for layer in range(1, depth + 1)) == post


def test_deepnorm_starts_small_where_it_should():
    """DeepNet: queries and keys as they are; values, outputs and feed-forwards times (8L)^-1/4."""
    _, plain = make("dense", width=128)
    _, params = make("dense", width=128, norm_placement="deepnorm")
    beta = (8 * 3) ** -0.25
    for path, p in params.items():
        if path.startswith("blocks") and path.endswith("kernel"):
            small = 1.0 if "query" in path or "key" in path else beta
            small *= (2 * 3) ** 0.5 if "out/" in path or "down/" in path else 1
            np.testing.assert_allclose(p, plain[path] * small, rtol=1e-5)


@pytest.mark.parametrize("first", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_mixtures_inherit_the_placement(first):
    """Layers keep their numbers behind `dense_first` layers of another stack."""
    options = {"dense_first": first, "norm_placement": "lns"}
    run, params = make("moe", "", **options)
    params = {path: p + 0.1 * jax.random.normal(jax.random.key(7), p.shape) for path, p in params.items()}
    folded = dict(params)
    for path in params:
        if "_norm/scale" in path:
            numbers = jnp.arange(1, 4)[:first] if path.startswith("first") else jnp.arange(1, 4)[first:]
            folded[path] = params[path] * numbers[:, None] ** -0.5
    pre, _ = make("moe", "", **options | {"norm_placement": "pre"})
    np.testing.assert_allclose(logits(run, params, tokens()), logits(pre, folded, tokens()), rtol=1e-4, atol=1e-5)
    assert not np.allclose(logits(run, params, tokens()), logits(pre, params, tokens()), atol=1e-3)


@pytest.mark.parametrize(
    "variant", [*(pytest.param(v, marks=pytest.mark.slow) for v in ("mix", "lns")), "layerwise", "linear"]
)
def test_scan_equals_loop(variant):
    run, params = make("dense", variant)
    x = tokens()

    def evaluate(**options):
        other = dataclasses.replace(run, model=dataclasses.replace(run.model, **options))
        return jax.jit(
            jax.value_and_grad(lambda p: (functional.apply(other.family, other.model, p, x).logits_BLV ** 2).mean())
        )(params)

    value, grads = evaluate()
    for options in ({"unroll": True}, {"remat": "full"}):
        other_value, other_grads = evaluate(**options)
        np.testing.assert_allclose(value, other_value, rtol=1e-5)
        for path, grad in grads.items():
            np.testing.assert_allclose(grad, other_grads[path], rtol=1e-3, atol=1e-7, err_msg=f"{options} {path}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "mesh"),
    [("layerwise", {"data": 2, "fsdp": 2}), ("linear", {"data": 2, "tensor": 2})],  # layerwise: of one key-value head
)
def test_packed_and_sharded_equals_one_device(tiny, variant, mesh):
    """Two trials on eight devices, the first as it is alone; for linear also both at once on one (vmap)."""
    size = {"model.vocab": 264} | {f"model.{name}": value for name, value in VARIANTS["dense"][variant].items()}
    size |= {"model.norm_placement": "mix", "model.mix_share": 0.4}
    one, _, _ = train([tiny("dense", **size)], devices=jax.devices()[:1])
    assert one[0, -1] < one[0, 0]
    split = size | {f"execution.mesh.{name}": count for name, count in ({"trial": 2} | mesh).items()}
    many, _, program = train([tiny("dense", **split), tiny("dense", seed=1, **split)])
    assert program.mesh.size == 8
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
    if variant == "linear":
        size |= {"execution.packing": "vmap"}
        many, _, _ = train([tiny("dense", **size), tiny("dense", seed=1, **size)], devices=jax.devices()[:1])
        np.testing.assert_allclose(many[0], one[0], rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_trains():
    run, _ = make("dense", "linear", dtype="bfloat16", norm_placement="lns")
    run = dataclasses.replace(run, opt=dataclasses.replace(run.opt, lr=1e-2))
    state = jax.jit(lambda: step.init_state(run, run))()
    update = jax.jit(lambda s, x: step.train_step(run, run, s, x))
    x, history = tokens(4, LENGTH + 1), []
    for _ in range(30):
        state, metrics = update(state, x)
        history.append(float(metrics["loss"]))
    assert np.isfinite(history).all() and history[-1] < history[0] - 0.5


# --- layers of unequal size

SIZES = {
    "270M": ({"width": 1280, "depth": 16, "heads": 20, "kv_heads": 5, "head_size": 64}, 271.5),
    "450M": ({"width": 1536, "depth": 20, "heads": 24, "kv_heads": 6, "head_size": 64}, 457.2),
    "1.1B": ({"width": 2048, "depth": 28, "heads": 32, "kv_heads": 8, "head_size": 64}, 1079.9),
    "3B": ({"width": 3072, "depth": 36, "heads": 24, "kv_heads": 6, "head_size": 128}, 3036.6),
}


@pytest.mark.parametrize("name", SIZES)
def test_layer_sizes_are_those_of_openelm(name):
    options, millions = SIZES[name]
    table = json.loads((GOLDEN / "laws_and_layouts.json").read_text())["openelm_layout"][name]
    cfg = dense.Config(layerwise=True, qk_norm=True, tied=True, norm_eps=1e-6, **options)
    cfg.check(2048)
    cfg = cfg.resolve(32_000, 2_048)
    sizes = dense.layer_sizes(cfg)
    assert [layer.heads for layer in sizes] == table["num_query_heads"]
    assert [layer.kv_heads for layer in sizes] == table["num_kv_heads"]
    assert [layer.ff for layer in sizes] == table["ffn_dim"]
    account = dense.account(cfg, 2_048)
    total = sum(account.params.values())
    assert total == table["params_tied_V32000"] and round(total / 1e6, 1) == millions
    shapes = jax.eval_shape(lambda: functional.init_params("dense", cfg))
    assert sum(p.size for p in shapes.values()) == total
    # Every matrix is multiplied once a token; what is not a matrix has one axis behind the layers'.
    matrices = sum(p.size for path, p in shapes.items() if path.endswith("kernel"))
    assert sum(account.matmul.values()) == 2 * (matrices + 32_000 * cfg.width)
    heads = sum(table["num_query_heads"]) * cfg.head_size
    assert account.attention["attention"] == 4 * heads * 2_048
    assert account.causal["attention"] == 2 * heads * 2_049


def test_equal_layers_stay_one_stack():
    """Shares that do not change, or none: the same parameters under the same names, the same numbers."""
    plain, params = make("dense", ff=64)
    run, same = make("dense", layerwise=True, layerwise_heads=(1.0, 1.0), layerwise_ff=(2.0, 2.0), layerwise_divisor=16)
    assert {path: p.shape for path, p in params.items()} == {path: p.shape for path, p in same.items()}
    assert "blocks/attention/query/kernel" in params
    np.testing.assert_array_equal(logits(plain, params, tokens()), logits(run, params, tokens()))
    assert dense.account(run.model, LENGTH) == dense.account(plain.model, LENGTH)


def test_runs_of_equal_layers_share_a_stack():
    """Heads 2, 4, 4 of 8: two stacks, which compute what layers one by one do, in order."""
    options = {"layerwise": True, "layerwise_heads": (0.5, 1.0), "layerwise_ff": (2.0, 2.0), "layerwise_divisor": 16}
    run, params = make("dense", **options, norm_placement="lns")
    assert [layer.heads for layer in dense.layer_sizes(run.model)] == [2, 4, 4]
    assert params["blocks/000/attention/query/kernel"].shape == (1, 32, 16)
    assert params["blocks/001/attention/query/kernel"].shape == (2, 32, 32)
    x = tokens()
    h = params["embed"][x]
    for i, layer in enumerate(dense.layer_sizes(run.model)):
        prefix, row = ("blocks/000/", 0) if i == 0 else ("blocks/001/", i - 1)
        graphdef = nnx.graphdef(dense.Block(nnx.Rngs(params=0), layer))
        flat = {p.removeprefix(prefix): v[row] for p, v in params.items() if p.startswith(prefix)}
        state = nnx.from_flat_state([(tuple(path.split("/")), nnx.Param(value)) for path, value in flat.items()])
        h = nnx.merge(graphdef, state)(h, jnp.asarray(i + 1))
    expected = layers.normalise(h, "rms", 1e-5) * params["norm/scale"] @ params["head/kernel"]
    np.testing.assert_allclose(logits(run, params, x), expected, rtol=1e-4, atol=1e-5)


# --- linear attention


def recurrent(q, k, v, log_decay_H, scale):
    """One position after the other; key-value heads repeated for the query heads that read them."""
    repeat = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, repeat, axis=2), jnp.repeat(v, repeat, axis=2)

    def advance(state, row):
        q, k, v = row
        state = jnp.exp(log_decay_H)[:, None, None] * state + k[..., :, None] * v[..., None, :]
        return state, scale * jnp.einsum("bhk,bhkv->bhv", q, state)

    rows = tuple(x.swapaxes(0, 1) for x in (q, k, v))
    start = jnp.zeros((*rows[0].shape[1:], q.shape[-1]))
    return jax.lax.scan(advance, start, rows)[1].swapaxes(0, 1)


def quadratic(q, k, v, log_decay_H, scale):
    """All pairs of positions at once."""
    repeat, length = q.shape[2] // k.shape[2], q.shape[1]
    k, v = jnp.repeat(k, repeat, axis=2), jnp.repeat(v, repeat, axis=2)
    gap = np.arange(length)[:, None] - np.arange(length)
    decay = np.where(gap >= 0, np.exp(np.asarray(log_decay_H)[:, None, None] * np.maximum(gap, 0)), 0)
    return jnp.einsum("bhts,bshk->bthk", scale * jnp.einsum("bthk,bshk->bhts", q, k) * decay, v)


@pytest.mark.parametrize("chunk", [1, 4, 5, 16, 40])
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_linear_attention_equals_the_recurrence_and_the_square(chunk, groups):
    draw = np.random.default_rng(chunk)
    q, k, v = (jnp.asarray(draw.normal(size=(2, 17, g, 8)), jnp.float32) for g in (4, groups, groups))
    decay_H = linear_attention.log_decay(4, jnp.asarray(2), 3)
    np.testing.assert_allclose(decay_H, [0, -4 / 3, -8 / 3, -4], rtol=1e-6)
    weigh = jnp.asarray(draw.normal(size=(2, 17, 4, 8)), jnp.float32)

    def evaluate(form, *extra):
        def objective(q, k, v):
            out = form(q, k, v, decay_H, 0.3, *extra)
            return (out * weigh).sum(), out

        return jax.jit(jax.value_and_grad(objective, (0, 1, 2), has_aux=True))(q, k, v)

    (_, ours), grads = evaluate(linear_attention.linear_attention, chunk)
    for form in (recurrent, quadratic):
        (_, theirs), expected = evaluate(form)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        for grad, other in zip(grads, expected, strict=True):
            np.testing.assert_allclose(grad, other, rtol=1e-4, atol=2e-5)


def test_no_decay_is_plain_linear_attention():
    draw = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draw.normal(size=(1, 12, 2, 4)), jnp.float32) for _ in range(3))
    ours = linear_attention.linear_attention(q, k, v, jnp.zeros(2), 1.0, 4)
    state = jnp.cumsum(k[..., :, None] * v[..., None, :], axis=1)
    np.testing.assert_allclose(ours, jnp.einsum("blhk,blhkv->blhv", q, state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "chunk"), [(256, 64), (256, 32), (64, 64), (200, 64)])
def test_linear_attention_costs_what_is_counted(length, chunk):
    q, k = jnp.zeros((2, length, 4, 64)), jnp.zeros((2, length, 2, 64))
    decay_H = linear_attention.log_decay(4, jnp.asarray(1), 2)
    call = jax.jit(lambda q, k, v: linear_attention.linear_attention(q, k, v, decay_H, 1.0, chunk))
    flops = call.lower(q, k, k).compile().cost_analysis()["flops"]
    full, causal = linear_attention.flops(4, 64, chunk, length)
    assert full * 2 * length == pytest.approx(flops, rel=0.05)
    assert causal < full


def test_features_differ_and_gates_are_counted():
    outputs = []
    for features in linear_attention.FEATURES:
        run, params = make("dense", "linear", features=features)
        assert "blocks/attention/gate/kernel" in params
        outputs.append(logits(run, params, tokens()))
    assert not np.allclose(outputs[0], outputs[1]) and not np.allclose(outputs[0], outputs[2])


# --- windows


@pytest.mark.parametrize("block", [None, 4, 7, 64])
@pytest.mark.parametrize("window", [1, 2, 5, 19, 30])
def test_window_equals_masked_full_attention(window, block):
    draw = np.random.default_rng(window)
    q, k, v = (jnp.asarray(draw.normal(size=(2, 19, g, 8)), jnp.float32) for g in (4, 2, 2))
    weigh = jnp.asarray(draw.normal(size=q.shape), jnp.float32)

    def masked(q, k, v):
        back = np.arange(19)[:, None] - np.arange(19)
        scores = jnp.einsum("blhk,bmhk->bhlm", q, jnp.repeat(k, 2, axis=2)) * 0.3
        scores = jnp.where((back >= 0) & (back < window), scores, -jnp.inf)
        return jnp.einsum("bhlm,bmhk->blhk", jax.nn.softmax(scores), jnp.repeat(v, 2, axis=2))

    def ours(q, k, v):
        return attention(q, k, v, 0.3, block, window)

    results = []
    for form in (ours, masked):
        grad = jax.grad(lambda q, k, v, form=form: (form(q, k, v) * weigh).sum(), (0, 1, 2))
        results.append((jax.jit(form)(q, k, v), jax.jit(grad)(q, k, v)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    for grad, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(grad, other, rtol=1e-4, atol=1e-5)


def test_window_does_not_compute_what_it_masks():
    q, k = jnp.zeros((1, 1024, 2, 64)), jnp.zeros((1, 1024, 1, 64))

    def flops(window, block=None):
        call = jax.jit(lambda q, k, v: attention(q, k, v, 1.0, block, window))
        return call.lower(q, k, k).compile().cost_analysis()["flops"]

    needed = 4 * 2 * 64 * 1024 * 64
    assert flops(64, 64) < 2.2 * needed
    assert flops(64) < 0.25 * flops(None)


def test_a_position_sees_its_window_and_no_more():
    """Through one layer; each further layer reaches as far again."""
    run, params = make("dense", window=5, depth=1)
    x = tokens()
    base, changed = logits(run, params, x), logits(run, params, x.at[:, 3].set((x[:, 3] + 7) % VOCAB))
    seen = ~np.all(np.isclose(base, changed, atol=0, rtol=0), axis=(0, 2))
    assert np.flatnonzero(seen).tolist() == [3, 4, 5, 6, 7]


def test_window_is_counted():
    cfg = dense.Config(**TINY["dense"], window=6).resolve(VOCAB, LENGTH)
    account, plain = dense.account(cfg, LENGTH), dense.account(dataclasses.replace(cfg, window=None), LENGTH)
    mean = np.mean([min(t, 6) for t in range(1, LENGTH + 1)])
    assert account.causal["attention"] == pytest.approx(4 * 3 * 32 * mean)
    assert account.attention["attention"] == 4 * 3 * 32 * 6
    assert plain.causal["attention"] == pytest.approx(4 * 3 * 32 * (LENGTH + 1) / 2)
    wide = dense.account(dataclasses.replace(cfg, window=10 * LENGTH), LENGTH)
    assert (wide.attention, wide.causal) == (plain.attention, plain.causal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_placement": "per"}, r"model.norm_placement='per' is not known; .*'pre'"),
        ({"norm_placement": "mix", "mix_share": 1.5}, "model.mix_share=1.5 must be a number from 0 to 1"),
        ({"attention": "linear", "window": 4}, "model.window=4 has an effect only where model.attention='softmax'"),
        ({"attention": "quadratic"}, "model.attention='quadratic' is not known"),
        ({"window": 0}, "model.window=0 must be at least 1"),
        ({"chunk": 0}, "model.chunk=0 must be at least 1"),
        ({"layerwise": True, "ff": 64}, "model.ff=64 has an effect only where model.layerwise=False"),
        ({"layerwise": True, "layerwise_ff": (0.5,)}, r"model.layerwise_ff=\(0.5,\) must be two positive numbers"),
        ({"layerwise": True, "layerwise_heads": (0.0, 1.0)}, "model.layerwise_heads=.* must be two positive numbers"),
        ({"layerwise": True, "kv_heads": 3}, "model.heads=4 is not divisible by model.kv_heads=3"),
    ],
)
def test_what_cannot_be_built_is_an_error(options, message):
    with pytest.raises(InputError, match=message) as error:
        dense.Config(**TINY["dense"] | options).check(LENGTH)
    assert "\n" not in str(error.value)


def test_mixtures_refuse_unequal_layers():
    with pytest.raises(InputError, match="model.layerwise=True cannot be: experts of all layers have one size"):
        moe.Config(**TINY["moe"], layerwise=True).check(LENGTH)
