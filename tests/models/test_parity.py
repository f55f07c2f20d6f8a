"""Equality with arrays that the reference implementations computed (tests/golden)."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import schema
from experiments.training import loss as losses
from experiments.training import optimizer, schedule, transformations
from models import functional
from models.families import dense
from tests.support.paths import GOLDEN


def llama(golden):
    """Hugging Face Llama names and layouts ([out, in]) to ours ([in, out], layers stacked)."""
    layers = range(2)

    def stacked(kind, name, transpose=True):
        arrays = [golden[f"{kind}/model.layers.{i}.{name}.weight"] for i in layers]
        return np.stack([a.T if transpose else a for a in arrays])

    names = {
        "blocks/attention/query/kernel": "self_attn.q_proj",
        "blocks/attention/key/kernel": "self_attn.k_proj",
        "blocks/attention/value/kernel": "self_attn.v_proj",
        "blocks/attention/out/kernel": "self_attn.o_proj",
        "blocks/mlp/gate/kernel": "mlp.gate_proj",
        "blocks/mlp/up/kernel": "mlp.up_proj",
        "blocks/mlp/down/kernel": "mlp.down_proj",
        "blocks/attention_norm/scale": "input_layernorm",
        "blocks/mlp_norm/scale": "post_attention_layernorm",
    }
    params = {ours: stacked("param", theirs, "norm" not in theirs) for ours, theirs in names.items()}
    params |= {
        "embed": golden["param/model.embed_tokens.weight"],
        "norm/scale": golden["param/model.norm.weight"],
        "head/kernel": golden["param/lm_head.weight"].T,
    }
    grads = {}
    for ours, theirs in names.items():
        grad = golden[f"grad/model.layers.0.{theirs}.weight"]
        grads[ours] = grad if "norm" in theirs else grad.T
    return params, grads


def gpt2(golden):
    """Hugging Face GPT-2 (Conv1D: [in, out], fused qkv) to ours."""

    def layer(kind, i, name):
        return golden[f"{kind}/transformer.h.{i}.{name}"]

    names = {
        "blocks/attention_norm/scale": "ln_1.weight",
        "blocks/attention_norm/bias": "ln_1.bias",
        "blocks/mlp_norm/scale": "ln_2.weight",
        "blocks/mlp_norm/bias": "ln_2.bias",
        "blocks/attention/out/kernel": "attn.c_proj.weight",
        "blocks/attention/out/bias": "attn.c_proj.bias",
        "blocks/mlp/up/kernel": "mlp.c_fc.weight",
        "blocks/mlp/up/bias": "mlp.c_fc.bias",
        "blocks/mlp/down/kernel": "mlp.c_proj.weight",
        "blocks/mlp/down/bias": "mlp.c_proj.bias",
    }
    params = {ours: np.stack([layer("param", i, theirs) for i in range(2)]) for ours, theirs in names.items()}
    grads = {ours: layer("grad", 0, theirs) for ours, theirs in names.items()}
    for j, ours in enumerate(("query", "key", "value")):
        for kind, theirs in (("kernel", "weight"), ("bias", "bias")):
            fused = [np.split(layer("param", i, f"attn.c_attn.{theirs}"), 3, axis=-1)[j] for i in range(2)]
            params[f"blocks/attention/{ours}/{kind}"] = np.stack(fused)
            grads[f"blocks/attention/{ours}/{kind}"] = np.split(layer("grad", 0, f"attn.c_attn.{theirs}"), 3, axis=-1)[
                j
            ]
    params |= {
        "embed": golden["param/transformer.wte.weight"],
        "position": golden["param/transformer.wpe.weight"],
        "norm/scale": golden["param/transformer.ln_f.weight"],
        "norm/bias": golden["param/transformer.ln_f.bias"],
    }
    grads["position"] = golden["grad/transformer.wpe.weight"]
    return params, grads


LLAMA = dense.Config(width=32, depth=2, heads=4, kv_heads=2, head_size=8, ff=56)
GPT2 = dense.Config(
    width=32, depth=2, heads=4, norm="layer", bias=True, activation="gelu", position="learned", positions=32, tied=True
)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize(
    ("file", "cfg", "convert", "count"),
    [("dense_llama_gqa_tiny", LLAMA, llama, 21_152), ("dense_gpt2_tiny", GPT2, gpt2, 28_544)],
    ids=["llama", "gpt2"],
)
def test_forward_and_gradients_equal_the_reference(file, cfg, convert, count, unroll):
    golden = np.load(GOLDEN / f"{file}.npz")
    assert json.loads(str(golden["config"]))["vocab_size"] == 64
    params, grads = convert(golden)
    cfg = dataclasses.replace(cfg, unroll=unroll).resolve(64, 10)
    run = schema.Run("dense", cfg, seq_len=10)
    params = {path: jnp.asarray(value) for path, value in params.items()}
    assert params.keys() == functional.param_axes(run.family, run.model).keys()
    assert sum(p.size for p in params.values()) == count == sum(dense.account(cfg, 10).params.values())
    ids = jnp.asarray(golden["input_ids"])

    def objective(params):
        logits = functional.apply(run.family, run.model, params, ids).logits_BLV
        total, terms = losses.objective(logits[:, :-1], ids[:, 1:], schema.Loss(z_loss=0.0))
        return total, (logits, terms)

    (loss, (logits, terms)), ours = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, golden["ce_loss"], rtol=1e-5)
    np.testing.assert_allclose(terms["z_loss"], golden["z_term_mean_lse_sq"], rtol=1e-5)
    for path, grad in grads.items():
        mine = ours[path][0] if path.startswith("blocks/") else ours[path]
        np.testing.assert_allclose(mine, grad, rtol=1e-3, atol=1e-5, err_msg=path)


def test_z_loss_is_added_with_its_gradient():
    """d/dlogits = softmax (1 + 2 c log Z) - onehot, over the number of targets."""
    draw = np.random.default_rng(0)
    logits, targets = jnp.asarray(draw.normal(size=(1, 3, 5)), jnp.float32), jnp.asarray([[0, 4, 2]])
    c = 0.3
    total, terms = losses.objective(logits, targets, schema.Loss(z_loss=c))
    assert float(total) == pytest.approx(float(terms["loss"] + c * terms["z_loss"]))
    grad = jax.grad(lambda x: losses.objective(x, targets, schema.Loss(z_loss=c))[0])(logits)
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    expected = (jax.nn.softmax(logits) * (1 + 2 * c * log_z) - jax.nn.one_hot(targets, 5)) / 3
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


def test_a_missing_coefficient_is_an_error():
    with pytest.raises(AttributeError, match="load_balance"):
        aux = {"load_balance": jnp.ones(())}
        losses.objective(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), int), schema.Loss(), aux, dense.Config())


SHAPES = {
    "epfl_wsd_linear": "linear",
    "epfl_wsd_sqrt": "sqrt",
    "epfl_wsd_cosine": "cosine",
    "epfl_wsd_square": "square",
    "epfl_wsd_miror_cosine": "mirror_cosine",
    "epfl_wsd_exp_final0.1": "exponential",
}


@pytest.mark.parametrize("name", [*SHAPES, "epfl_cosine_final0.1"])
def test_schedules_equal_the_reference(name):
    golden = np.load(GOLDEN / "schedules.npz")
    cosine = name not in SHAPES
    options = schema.Schedule(
        name="cosine" if cosine else "wsd",
        warmup_tokens=20,
        warmup_start=0.01,
        decay_tokens=0 if cosine else 40,
        decay_shape=SHAPES.get(name, "sqrt"),
        final=0.1 if "0.1" in name else 0.0,
    )
    run = schema.Run("dense", LLAMA.resolve(64, 8), schedule=options, tokens=200)
    ours = jax.vmap(lambda t: schedule.schedule(run, t))(jnp.asarray(golden["steps"], jnp.float32))
    np.testing.assert_allclose(ours, golden[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "final", "half_way"), [("linear", 0.0, 0.01), ("exponential", 0.01, 0.002)])
def test_power_schedule_by_hand(shape, final, half_way):
    """Shen et al. 2024, equations 4 and 5, with a B = 0.5 x 4 sequences and b = -1/2: 2 / sqrt(n), and 0.1 at most."""
    options = schema.Schedule("power", 1_600, 0.0, 2_500, shape, final, a=0.5, b=-0.5)
    run = schema.Run("dense", LLAMA.resolve(64, 8), schedule=options, tokens=12_500, batch_tokens=32, seq_len=8)
    run = dataclasses.replace(run, opt=dataclasses.replace(run.opt, lr=0.1))
    rates = {
        0: 0.0,
        800: 0.025,  # half of the warm-up to 2 / 40
        1_600: 0.05,
        2_500: 0.04,
        10_000: 0.02,  # the cooldown begins
        11_250: half_way,
        12_500: final * 0.02,
    }
    ours = [0.1 * float(schedule.schedule(run, tokens)) for tokens in rates]
    np.testing.assert_allclose(ours, list(rates.values()), rtol=1e-5, atol=1e-9)
    early = dataclasses.replace(options, warmup_tokens=0, decay_tokens=0)
    capped = dataclasses.replace(run, schedule=early)
    ours = [float(schedule.schedule(capped, tokens)) for tokens in (0, 100, 400, 10_000, 12_500)]
    np.testing.assert_allclose(ours, [1.0, 1.0, 1.0, 0.2, 0.2 / 1.25**0.5], rtol=1e-5)


def test_optimizer_is_adamw_with_a_mask():
    """Against optax.adamw on matrices; norms are not decayed; clipping by the global norm."""
    import optax

    run = schema.Run("dense", LLAMA.resolve(64, 8), tokens=2048 * 50)
    run = dataclasses.replace(run, opt=dataclasses.replace(run.opt, clip_norm=0.5, weight_decay=0.3))
    params = jax.jit(lambda: functional.init_params(run.family, run.model, run.seed))()
    axes = functional.param_axes(run.family, run.model)
    decayed = {path for path, on in transformations.decay_mask(axes).items() if on}
    assert decayed == {path for path in params if path.endswith("kernel") or path == "embed"}
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(1e-3, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.3, mask=transformations.decay_mask(axes)),
    )
    grads = jax.tree.map(lambda p: p * 3 + 0.1, params)
    ours = optimizer.transform(run, functional.param_info(run.family, run.model))
    expected, updates = (
        jax.jit(lambda g, p, t=t: t.update(g, t.init(p), p)[0])(grads, params) for t in (reference, ours)
    )
    for path, update in updates.items():
        np.testing.assert_allclose(-1e-3 * update, expected[path], rtol=1e-5, atol=1e-9)
