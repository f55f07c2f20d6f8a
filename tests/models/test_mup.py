"""muP and CompleteP: the reference's numbers, the table of models/numerics/parametrization.py, and that sizes really transfer."""

import dataclasses
import json
import pathlib

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.cli import InputError
from experiments.run import schema
from experiments.training import loss as losses
from experiments.training import optimizer, step, transformations
from experiments.training.optimizers import adamw
import models
from models import functional
from models.blocks import stack
from models.families import dense
from models.growing import check
from models.growing.options import Growth
from models.numerics.parametrization import Factors
from tests.support.commands import launched
from tests.support.families import TINY
from tests.support.paths import GOLDEN, REPOSITORY
from tests.support.sharding import losses as population_losses

VOCAB, LENGTH = 61, 16


def frozen(options, family="dense", **opt):
    cfg = models.load(family).Config(**options).resolve(VOCAB, LENGTH)
    cfg.check(LENGTH)
    return schema.Run(family, cfg, opt=adamw.Config(**opt), seq_len=LENGTH, batch_tokens=4 * LENGTH)


def make(*given, **opt):
    run = frozen(*given, **opt)
    return run, jax.jit(lambda: functional.init_params(run.family, run.model, run.seed))()


def tokens(rows=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (rows, LENGTH + 1)))


# --- the reference


def nano(golden):
    """nanoGPT's names and layout ([out, in], fused qkv) to ours."""

    def stacked(name):
        return np.stack([golden[f"param/transformer.h.{i}.{name}"] for i in range(3)])

    params = {"embed": golden["param/transformer.wte.weight"], "position": golden["param/transformer.wpe.weight"]}
    params |= {
        "norm/scale": golden["param/transformer.ln_f.weight"],
        "norm/bias": golden["param/transformer.ln_f.bias"],
    }
    for ours, theirs in {"attention_norm": "ln_1", "mlp_norm": "ln_2"}.items():
        params |= {
            f"blocks/{ours}/scale": stacked(f"{theirs}.weight"),
            f"blocks/{ours}/bias": stacked(f"{theirs}.bias"),
        }
    for ours, theirs in {"attention/out": "attn.c_proj", "mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}.items():
        params[f"blocks/{ours}/kernel"] = stacked(f"{theirs}.weight").transpose(0, 2, 1)
        params[f"blocks/{ours}/bias"] = stacked(f"{theirs}.bias")
    weights = np.split(stacked("attn.c_attn.weight").transpose(0, 2, 1), 3, axis=-1)
    biases = np.split(stacked("attn.c_attn.bias"), 3, axis=-1)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        params |= {f"blocks/attention/{name}/kernel": weight, f"blocks/attention/{name}/bias": bias}
    return {path: jnp.asarray(value) for path, value in params.items()}


NANO = dense.Config(
    width=32, depth=3, heads=2, norm="layer", bias=True, activation="gelu_exact", position="learned", positions=16,
    tied=True,
)  # fmt: skip
SETTINGS = {
    "sp": {},
    "mup": {"parametrization": "mup", "base_width": 16},
    "completep": {"parametrization": "completep", "base_width": 16, "base_depth": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_forward_equals_the_reference(name):
    golden = np.load(GOLDEN / "mup_completep_tiny.npz")
    run = schema.Run("dense", dataclasses.replace(NANO, **SETTINGS[name]).resolve(64, 12), seq_len=12)
    params = nano(golden)
    assert params.keys() == functional.param_axes(run.family, run.model).keys()
    logits = jax.jit(lambda p, x: functional.apply(run.family, run.model, p, x).logits_BLV)(params, golden["ids"])
    np.testing.assert_allclose(logits, golden[f"{name}/logits"], rtol=1e-4, atol=1e-5)
    loss = losses.cross_entropy(logits, jnp.asarray(golden["targets"]))[0].mean()
    np.testing.assert_allclose(loss, golden[f"{name}/loss"], rtol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_groups_equal_the_reference(name):
    """Entries by (weight decay, learning rate); eps where the snapshot agrees with its later version: in CompleteP's blocks."""
    golden = np.load(GOLDEN / "mup_completep_tiny.npz")
    run = schema.Run("dense", dataclasses.replace(NANO, **SETTINGS[name]).resolve(64, 12), seq_len=12)
    theirs, ours = {}, {}
    for group in json.loads(str(golden["config"]))[name]["groups"]:
        key = (group["weight_decay"], group["lr_scale"] or 1.0)
        theirs[key] = theirs.get(key, 0) + group["numel"]
    infos = functional.param_info(run.family, run.model)
    decays = transformations.decay_mask(functional.param_axes(run.family, run.model))
    for path, value in nano(golden).items():
        factors = run.model.factors(infos[path])
        key = (0.1 * factors.weight_decay * decays[path], factors.lr)
        ours[key] = ours.get(key, 0) + value.size
        if name == "completep" and path.startswith("blocks/"):
            assert 1e-8 * factors.gradient_size == pytest.approx(1.6666666666666667e-09)
    assert ours == theirs


# --- forward and backward


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_standard_model_with_other_numbers(tied):
    """Every factor of the forward pass absorbed in weights: one loss in training and evaluation, gradients by the chain rule."""
    options = {"width": 32, "depth": 3, "heads": 4, "kv_heads": 2, "tied": tied, "embed_multiplier": 1.5}
    scaled = {"parametrization": "completep", "base_width": 10, "base_depth": 2, "depth_alpha": 0.7}
    scaled |= {"base_head_size": 3, "logit_multiplier": 0.4, "init_std": 0.3}
    (ours, params), (plain, _) = make(options | scaled), make(options)
    branch = 1.5**-0.7
    absorbed = {
        "attention/query/kernel": 3**0.5 / 8 * 8**0.5,
        "attention/out/kernel": branch,
        "mlp/down/kernel": branch,
    }
    absorbed = {f"blocks/{path}": factor for path, factor in absorbed.items()}
    # The norm before the head takes the factor of the logits, which a tied embedding cannot.
    absorbed["norm/scale"] = 0.4 / 3.2
    absorbed = {path: absorbed.get(path, 1.0) for path in params}
    batch = tokens()

    def objective(run, p):
        logits = functional.apply(run.family, run.model, p, batch[:, :-1]).logits_BLV
        return losses.objective(logits, batch[:, 1:], schema.Loss(z_loss=0.1))[0]

    moved = {path: value * absorbed[path] for path, value in params.items()}
    loss, grads = jax.jit(jax.value_and_grad(lambda p: objective(ours, p)))(params)
    expected, theirs = jax.jit(jax.value_and_grad(lambda p: objective(plain, p)))(moved)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for path, grad in grads.items():
        np.testing.assert_allclose(grad, theirs[path] * absorbed[path], rtol=1e-3, atol=1e-6, err_msg=path)
    nats = [jax.jit(lambda p, run=run: step.eval_step(run, p, batch))(p) for run, p in ((ours, params), (plain, moved))]
    np.testing.assert_allclose(*nats, rtol=1e-5)


@pytest.mark.parametrize("family", ["dense", "min_gru"])
def test_at_the_base_size_completep_is_mup(family):
    """Losses and parameters after three steps, to the bit."""
    out = []
    for name in ("mup", "completep"):
        base = {"parametrization": name, "base_width": TINY[family]["width"]}
        if name == "completep":
            base["base_depth"] = TINY[family]["depth"]
        run = frozen(TINY[family] | base, family)
        state = jax.jit(lambda run=run: step.init_state(run, run))()
        update = jax.jit(lambda s, x, run=run: step.train_step(run, run, s, x))
        for seed in range(3):
            state, metrics = update(state, tokens(seed=seed))
        out.append((state.params, metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, *out)


def test_initial_scales():
    """Hidden matrices shrink with the width, also those that write back; embedding, head and router do not."""
    size = {"width": 128, "heads": 8, "experts": 32, "vocab": 500, "init_std": 0.05}
    for init, std in (("gpt2", 0.05), ("fan_in", 0.05 / 0.02 * 32**-0.5)):
        options = size | {"parametrization": "mup", "base_width": 32, "init": init}
        _, params = make(options, "moe")
        deviation = {path: float(jnp.std(value)) for path, value in params.items()}
        for path in ("attention/query/kernel", "attention/out/kernel", "mlp/gate", "mlp/down"):
            assert deviation[f"blocks/{path}"] == pytest.approx(std / 2, rel=0.05), path
        assert deviation["blocks/mlp/router/out/kernel"] == pytest.approx(std, rel=0.05)
        assert deviation["embed"] == pytest.approx(0.05, rel=0.05) == deviation["head/kernel"]


# --- the table


VECTORS = ("blocks/attention_norm/scale", "blocks/mlp/up/bias", "blocks/attention/query_norm/scale")
HIDDEN = ("blocks/attention/query/kernel", "blocks/attention/out/kernel", "blocks/mlp/down/kernel")
BESIDE = ("embed", "position", "head/kernel", "norm/scale", "norm/bias")
# Four times the width, three times the depth: learning rate, decay, eps of hidden matrices, vectors, and the rest.
TABLE = {
    ("standard", 1.0): (Factors(), Factors(), Factors()),
    ("mup", 1.0): (Factors(1 / 4, 1, 1 / 4), Factors(1, 1, 1 / 4), Factors(1, 1, 1 / 4)),
    ("completep", 1.0): (Factors(1 / 4, 4, 1 / 12), Factors(1, 1, 1 / 12), Factors(1, 1, 1 / 4)),
    ("completep", 0.5): (
        Factors(3**-0.5 / 4, 4, 1 / (4 * 3**0.5)),
        Factors(3**-0.5, 1, 1 / (4 * 3**0.5)),
        Factors(1, 1, 1 / 4),
    ),
}


@pytest.mark.parametrize(("name", "alpha"), TABLE)
def test_factors_are_those_of_the_table(name, alpha):
    options = {"width": 64, "depth": 6, "position": "learned", "bias": True, "norm": "layer", "qk_norm": True}
    options |= {"parametrization": name, "depth_alpha": alpha}
    if name != "standard":
        options["base_width"] = 16
    run = frozen(options)
    infos = functional.param_info(run.family, run.model)
    for paths, expected in zip((HIDDEN, VECTORS, BESIDE), TABLE[name, alpha], strict=True):
        for path in paths:
            assert run.model.factors(infos[path]) == pytest.approx(expected), path
    standard = name == "standard"
    assert run.model.residual_scale == pytest.approx(3**-alpha if name == "completep" else 1)
    assert run.model.logit_scale == (1 if standard else 1 / 4)
    assert run.model.score_scale == (16**-0.5 if standard else 1 / 16)


def test_experts_are_hidden_and_their_router_is_an_output():
    run = frozen(TINY["moe"] | {"parametrization": "completep", "base_width": 8, "base_depth": 1}, "moe")
    infos = functional.param_info(run.family, run.model)
    found = {path: run.model.factors(info) for path, info in infos.items()}
    assert found["blocks/mlp/gate"] == found["blocks/mlp/down"] == pytest.approx(Factors(1 / 4, 4, 1 / 12))
    assert found["blocks/mlp/router/out/kernel"] == pytest.approx(Factors(1, 1, 1 / 12))


def test_the_optimizer_gives_each_parameter_its_own_numbers():
    """Against one optax.adamw per parameter on gradients clipped together, over three steps; eps is large enough to matter."""
    options = TINY["dense"] | {"parametrization": "completep", "base_width": 8, "base_depth": 1, "depth_alpha": 0.5}
    run, params = make(options, lr=0.1, eps=1e-2, weight_decay=0.3, clip_norm=2.0)
    infos = functional.param_info(run.family, run.model)
    mask = transformations.decay_mask(functional.param_axes(run.family, run.model))
    ours = optimizer.transform(run, infos)
    theirs = {}
    for path, info in infos.items():
        lr, decay, gradient_size = run.model.factors(info)
        decay *= 0.3 if mask[path] else 0.0
        theirs[path] = optax.adamw(0.1 * lr, b1=0.9, b2=0.95, eps=1e-2 * gradient_size, weight_decay=decay)
    draw = np.random.default_rng(0)
    batches = [{p: jnp.asarray(draw.normal(0, 0.1, v.shape), jnp.float32) for p, v in params.items()} for _ in range(3)]
    assert all(optax.global_norm(grads) > 2 for grads in batches)

    @jax.jit
    def together(params, batches):
        state = ours.init(params)
        for grads in batches:
            updates, state = ours.update(grads, state, params)
            params = {path: p - 0.1 * updates[path] for path, p in params.items()}
        return params

    @jax.jit
    def apart(params, batches):
        params = dict(params)
        for path, one in theirs.items():
            state = one.init(params[path])
            for grads in batches:
                clipped = grads[path] * 2.0 / optax.global_norm(grads)
                update, state = one.update(clipped, state, params[path])
                params[path] = params[path] + update
        return params

    expected = apart(params, batches)
    for path, value in together(params, batches).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_standard_is_the_plain_chain():
    """The same state tree and updates, to the bit: old checkpoints go on as they were."""
    run, params = make(TINY["dense"], weight_decay=0.3)
    axes = functional.param_axes(run.family, run.model)
    plain = optax.chain(
        optax.clip_by_global_norm(run.opt.clip_norm),
        optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8),
        optax.add_decayed_weights(0.3, transformations.decay_mask(axes)),
    )
    ours = optimizer.transform(run, functional.param_info(run.family, run.model))
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(plain.init(params))
    grads = jax.tree.map(lambda p: p * 3 + 0.1, params)
    both = (jax.jit(lambda g, p, t=t: t.update(g, t.init(p), p))(grads, params) for t in (ours, plain))
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("tokenformer", {"parametrization": "mup"}, "model.parametrization='mup' is not known; .*standard"),
        ("matmul_free", {"parametrization": "completep"}, "model.parametrization='completep' is not known; .*standard"),
        ("dense", {"parametrization": "mu"}, "model.parametrization='mu' is not known; .*'mup'"),
        ("dense", {"depth_alpha": 0.4}, "model.depth_alpha=0.4 must be from 0.5 to 1"),
        ("dense", {"base_width": 0}, "model.base_width=0 must be at least 1"),
        ("dense", {"logit_multiplier": 0.0}, "model.logit_multiplier=0.0 must be a positive number"),
        ("dense", {"parametrization": "completep", "norm_placement": "post"}, "norm_placement='post' .*pre, sandwich"),
        (
            "moe",
            {"parametrization": "mup", "router": "recurrent"},
            "model.router='recurrent' .*'mup'; expected 'linear'",
        ),
    ],
)
def test_what_has_no_rule_is_refused(family, options, words):
    with pytest.raises(InputError, match=words) as caught:
        frozen(options, family)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["dense", pytest.param("moe", marks=pytest.mark.slow)])
def test_sharded_equals_one_device(tiny, family):
    options = {"parametrization": "completep", "base_width": 8, "vocab": 264}
    options = {f"model.{name}": value for name, value in options.items()}
    one, _, _ = population_losses([tiny(family, **options)], devices=jax.devices()[:1])
    mesh = {f"execution.mesh.{name}": 2 for name in ("data", "fsdp", "tensor")}
    np.testing.assert_allclose(population_losses([tiny(family, **options, **mesh)])[0], one, rtol=1e-5)


def test_growth_to_another_width_is_refused():
    """The logits of a child would be those of its parent over the ratio of their widths."""
    size = TINY["dense"] | {"parametrization": "mup"}
    old, new = (frozen(size | {"width": d, "heads": d // 8}).model for d in (32, 64))
    with pytest.raises(InputError, match="model.parametrization='mup'.*expected 'standard'"):
        check.check(("dense", old), ("dense", new), Growth())


# --- sizes really transfer


def stream(run, params, tokens_BL):
    """Mean magnitude of the residual stream after each layer, and the logits."""
    graphdef, _ = functional._abstract(run.family, run.model)
    axes = functional.param_axes(run.family, run.model)
    model = nnx.merge(graphdef, nnx.from_flat_state([(tuple(p.split("/")), nnx.Param(params[p])) for p in axes]))

    def call(block, x_BLD, layer):
        y_BLD = block(x_BLD, layer)
        return y_BLD, jnp.abs(y_BLD).mean()

    x_BLD = model.look_up(tokens_BL) * run.model.embed_multiplier
    numbers = jnp.arange(1, run.model.depth + 1)
    return stack.fold_stack(call, model.blocks, x_BLD, numbers, unroll=False, remat="none")[1]


def coordinates(options, lr=2e-3, steps=10):
    """Sizes [step, layer] before training and after each of `steps` steps on one batch."""
    run = frozen(options | {"unroll": False}, lr=lr)
    run = dataclasses.replace(run, schedule=schema.Schedule(name="constant"))
    state, batch = jax.jit(lambda: step.init_state(run, run))(), tokens(4)
    update = jax.jit(lambda s: step.train_step(run, run, s, batch)[0], donate_argnums=0)
    measure = jax.jit(lambda p: stream(run, p, batch[:, :-1]))
    out = [measure(state.params)]
    for _ in range(steps):
        state = update(state)
        out.append(measure(state.params))
    return np.array(out)


def slopes(sizes, values):
    """Of log magnitude over log size, by step and layer. `values`: [size, step, layer]."""
    flat = np.log(values.reshape(len(sizes), -1))
    return np.polyfit(np.log(sizes), flat, 1)[0].reshape(values.shape[1:])


BASE = {"base_width": 64, "base_head_size": 16}
SCALED = {
    "standard": {},
    "mup": {"parametrization": "mup", **BASE},
    "completep": {"parametrization": "completep", **BASE},
}


@pytest.mark.slow
def test_over_width_activations_stay_under_mup_only():
    """Every layer, from before training to ten steps after; heads of one size."""
    widths, found = (64, 128, 256, 512), {}
    for name in ("standard", "mup"):
        options = {"depth": 2, **SCALED[name]}
        found[name] = slopes(widths, np.array([coordinates(options | {"width": d, "heads": d // 16}) for d in widths]))
    assert np.abs(found["mup"]).max() < 0.1, found["mup"]
    assert found["standard"].min() > 0.4, found["standard"]


@pytest.mark.slow
def test_over_depth_activations_stay_under_completep_only():
    """The last layer, after one to ten steps. The embedding stands out of the first layers' noise, which falls with depth."""
    depths, found = (2, 6, 20, 64), {}
    for name in ("standard", "mup", "completep"):
        options = {"width": 64, "embed_multiplier": 4.0, **SCALED[name]}
        found[name] = slopes(depths, np.array([coordinates(options | {"depth": y})[1:, -1:] for y in depths]))
    assert np.abs(found["completep"]).max() < 0.1, found["completep"]
    assert min(found[name].min() for name in ("standard", "mup")) > 0.15, found


@pytest.mark.slow
def test_over_width_the_best_learning_rate_stays_under_mup_only(tmp_path: pathlib.Path, data_root: pathlib.Path):
    """The study as a user launches it. Steps of the grid are factors of two."""
    grid = launched(f"{REPOSITORY}/sweeps/studies/transfer.py", tmp_path, data_root)
    best = grid.loc[grid.groupby(["parametrization", "width"])["loss_nats"].idxmin()].set_index("parametrization")
    power = {name: np.log2(best.loc[name, "lr"].to_numpy()) for name in ("standard", "mup")}
    assert np.ptp(power["mup"]) <= 1, power
    assert power["standard"][0] - power["standard"][-1] >= 2, power
