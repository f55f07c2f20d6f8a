"""Logits of a model in bfloat16 are sums in float32, which nothing rounds on the way to the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import identity, schema
from experiments.training import loss as losses
from models import functional
from models.families import matmul_free
from models.mesh import rules
from models.mesh.mesh import AXES, make_mesh
from tests.support.families import LENGTH, VOCAB, configure, make, tokens

HEADS = [
    ("dense", {}),
    ("dense", {"tied": True}),
    ("matmul_free", {}),
    ("moe", {}),
    ("min_gru", {}),
    ("tokenformer", {}),
]
MESHES = (None, {"fsdp": 2, "tensor": 2}, {"sequence": 2})


def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def last_rows(run, params, x):
    """Return the model, and what enters its head."""
    model = functional.model(run.family, run.model, params)
    hidden, _ = model.hidden(x)
    return model, hidden


def exact(run, model, hidden):
    """Return the logits that the head's factors make, both as the model rounds them, with sums in float64."""
    if run.family == "matmul_free":
        head = model.head
        rows, step = matmul_free.quantise(matmul_free._normalised_rows(hidden, head.norm[...], head.eps), 8)
        whole, mean = matmul_free.ternary(head.kernel[...])
        product = np.float64(rows) @ np.float64(whole) * np.float64(step) * float(mean)
        return product.reshape(*hidden.shape[:-1], -1) * run.model.logit_scale
    kernel = model.embed[...].T if model.head is None else model.head.kernel[...]
    return np.float64(hidden) @ np.float64(rounded(kernel)) * run.model.logit_scale


def nats_of(logits, targets):
    return losses.cross_entropy(jnp.asarray(logits, jnp.float32), targets)[0]


@pytest.mark.parametrize(("family", "options"), HEADS, ids=str)
def test_logits_are_not_rounded_to_bfloat16(family, options):
    run, params = make(family, dtype="bfloat16", **options)
    tables = [path for path, value in params.items() if VOCAB in value.shape]
    params |= {path: 20 * params[path] for path in tables}  # so that logits are of a size at which rounding shows
    model, hidden = last_rows(run, params, tokens())
    assert hidden.dtype == jnp.bfloat16
    head = model.readout()
    logits = head.logits(head.params, hidden)
    assert logits.dtype == jnp.float32
    assert float((logits == rounded(logits)).mean()) < 0.1
    # And so the loss has the error of sums in float32, not of logits in bfloat16: some thousand times less.
    reference = exact(run, model, hidden)
    np.testing.assert_allclose(logits, reference, atol=1e-5 * np.abs(reference).max())
    targets = tokens(seed=1)
    expected = nats_of(reference, targets)
    error = jnp.abs(nats_of(logits, targets) - expected).mean()
    error_of_rounded = jnp.abs(nats_of(rounded(jnp.float32(reference)), targets) - expected).mean()
    assert error < error_of_rounded / 500


def on_mesh(run, mesh, params, function):
    """Call `function(params)` on a mesh, with parameters as they lie there; or on one device."""
    if mesh is None:
        return jax.jit(function)(params)
    devices = make_mesh([mesh.get(axis, 1) for axis in AXES])
    placed = {}
    for path, axes in functional.param_axes(run.family, run.model).items():
        placed[path] = jax.device_put(
            params[path], jax.NamedSharding(devices, rules.spec(axes, params[path].shape, devices))
        )
    with jax.set_mesh(devices):
        return jax.jit(function)(placed)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("family", ["dense", "matmul_free"])
def test_the_loss_sees_float32_logits(family, chunk, mesh):
    """Whole and in chunks, on one device and several, in training and in an evaluation."""
    run, params = make(family, dtype="bfloat16")
    name = next(path for path in params if path.endswith("head/kernel"))
    params[name] = 50 * params[name]
    x, targets = tokens(), tokens(seed=1)
    model, hidden = last_rows(run, params, x)
    reference = exact(run, model, hidden)
    expected = nats_of(reference, targets)
    coarse = nats_of(rounded(jnp.float32(reference)), targets)
    loss = schema.Loss(chunk=chunk)

    def computed(params):
        head = functional.model(run.family, run.model, params).readout()
        total, _ = losses.read_out(head, hidden, targets, loss)
        return losses.nats(head, hidden, targets, loss), total

    nats, total = on_mesh(run, mesh, params, computed)
    # The median: where a row lies between two steps of int8, two programs may round it to either.
    assert float(jnp.median(jnp.abs(nats - expected))) < float(jnp.median(jnp.abs(coarse - expected))) / 200
    np.testing.assert_allclose(total, nats.mean(), rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 7])
def test_gradients_multiply_in_bfloat16(chunk):
    """What the backward pass of the head multiplies is as small as before: no factor of a product is float32."""
    run, params = make("dense", dtype="bfloat16")
    head = functional.model(run.family, run.model, params).readout()
    hidden = jnp.ones((4, LENGTH, run.model.width), jnp.bfloat16)

    def total(params, hidden):
        return losses.read_out(head._replace(params=params), hidden, tokens(), schema.Loss(chunk=chunk))[0]

    program = jax.make_jaxpr(jax.grad(total, (0, 1)))(head.params, hidden)
    assert program.out_avals[0].dtype == program.out_avals[1].dtype == jnp.bfloat16
    products = list(_products(program.jaxpr))
    assert len(products) >= 3
    for product in products:
        assert [factor.aval.dtype for factor in product.invars] == [jnp.bfloat16] * 2


def _products(jaxpr):
    """Yield the matmuls of a program, and of the programs inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from _products(inner)


@pytest.mark.parametrize(
    ("family", "options", "version"),
    [
        ("dense", {}, 1),
        ("dense", {"dtype": "bfloat16"}, 2),
        ("dense", {"init_std": 0.1}, 1),
        ("matmul_free", {}, 1),
        ("matmul_free", {"init_std": 0.1}, 2),
        ("moe", {"mode": "capacity"}, 1),
        ("moe", {"mode": "expert_choice"}, 2),
    ],
)
def test_only_runs_with_new_numbers_have_a_new_version(family, options, version):
    """And with it another fingerprint; those of all others are what they were."""
    run = configure(family, **options)
    assert identity.numerics_version(run) == version
    values = {}
    for path, value, metadata in identity.leaves(run):
        if metadata.get("numerics", True) and path != "data.corpus" and value != metadata["default"]:
            values[path] = value
    unnamed = ("opt.name", "data.tokenizer", "data.text_field", "data.holdout")
    options = {path: value for path, value in values.items() if path not in unnamed}
    expected = identity.short_digest({"numerics": version, "run": options, "data": []})
    assert identity.fingerprint(run, ()) == expected
