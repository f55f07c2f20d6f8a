"""What each optimizer makes of gradients, against the equations of its paper in float64 numpy, over a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.cli import InputError
from experiments.run import freeze
from experiments.store.train_state import TrainState
from experiments.training import optimizer, optimizer_state, optimizers, transformations
from models import functional

STEPS = 4
MATRIX = "blocks/mlp/up/kernel"  # [layers, in, out]
OUT = "blocks/mlp/down/kernel"
SCALE = "norm/scale"
EMBED = "embed"


def frozen(name, model=None, **opt):
    sizes = {"width": 8, "heads": 2, "depth": 3, "ff": 12, "vocab": 16}
    values = {"model": sizes | (model or {}), "opt": {"name": name, "clip_norm": None, **opt}}
    run, _ = freeze.freeze(values)
    return run


def infos_of(run):
    return functional.param_info(run.family, run.model)


def drawn(run, seed):
    """An array for each parameter."""
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=info.shape), jnp.float32) for path, info in infos_of(run).items()}


def updates_of(run):
    """Updates for a learning rate of 1, step by step, where parameters stay as they are; and the parameters."""
    transform = optimizer.transform(run, infos_of(run))
    params = drawn(run, 0)
    state = jax.jit(transform.init)(params)
    update = jax.jit(transform.update)
    steps = []
    for number in range(STEPS):
        updates, state = update(drawn(run, 1 + number), state, params)
        steps.append(jax.tree.map(np.asarray, updates))
    return steps, params


def gradients(run, path):
    return [np.asarray(drawn(run, 1 + number)[path], np.float64) for number in range(STEPS)]


def adam(gradients, beta1, beta2, eps):
    mean = 0.0
    square = 0.0
    for number, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        yield mean / (1 - beta1**number) / (np.sqrt(square / (1 - beta2**number)) + eps)


def lion(gradients, beta1, beta2):
    mean = 0.0
    for gradient in gradients:
        yield np.sign(beta1 * mean + (1 - beta1) * gradient)
        mean = beta2 * mean + (1 - beta2) * gradient


def sgd(gradients, momentum, nesterov):
    total = 0.0
    for gradient in gradients:
        total = momentum * total + gradient
        yield momentum * total + gradient if nesterov else total


def newton_schulz(matrix, iterations=5):
    """Jordan's quintic iteration."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def muon(gradients, momentum):
    """Moonlight's equation 4, every layer by itself."""
    for total in sgd(gradients, momentum, nesterov=True):
        yield np.stack([0.2 * max(layer.shape) ** 0.5 * newton_schulz(layer) for layer in total])


def check(steps, expected, path, rtol=1e-4):
    for update, wanted in zip(steps, expected, strict=True):
        np.testing.assert_allclose(update[path], wanted, rtol=rtol, atol=rtol, err_msg=path)


def test_lion():
    run = frozen("lion", beta1=0.8, beta2=0.95, weight_decay=0.3)
    steps, params = updates_of(run)
    for path, decay in ((MATRIX, 0.3), (EMBED, 0.3), (SCALE, 0.0)):
        check(steps, [sign + decay * params[path] for sign in lion(gradients(run, path), 0.8, 0.95)], path)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
    run = frozen("sgd", momentum=0.7, nesterov=nesterov, weight_decay=0.3)
    steps, params = updates_of(run)
    for path, decay in ((MATRIX, 0.3), (SCALE, 0.0)):
        check(steps, [total + decay * params[path] for total in sgd(gradients(run, path), 0.7, nesterov)], path)


def test_muon():
    run = frozen("muon", momentum=0.9, beta1=0.8, beta2=0.9, weight_decay=0.3)
    steps, params = updates_of(run)
    for path in (MATRIX, OUT):
        check(steps, [u + 0.3 * params[path] for u in muon(gradients(run, path), 0.9)], path)
    for path, decay in ((EMBED, 0.3), ("head/kernel", 0.3), (SCALE, 0.0)):
        check(steps, [u + decay * params[path] for u in adam(gradients(run, path), 0.8, 0.9, 1e-8)], path)


def test_muon_updates_are_of_the_size_of_adamw():
    """Root mean squares of about 0.2 for every shape, so that learning rates and decays carry over."""
    run = frozen("muon", {"width": 32, "ff": 96}, weight_decay=0.0)
    steps, _ = updates_of(run)
    for path in (MATRIX, OUT, "blocks/attention/query/kernel"):
        size = np.sqrt(np.mean(steps[-1][path] ** 2))
        assert size == pytest.approx(0.2, rel=0.25), path


@pytest.mark.parametrize(
    ("family", "model", "orthogonal"),
    [
        ("moe", {"experts": 2}, {"blocks/mlp/up", "blocks/mlp/down"}),
        ("matmul_free", {}, {"blocks/mlp/gate_up/kernel", "blocks/mixer/out/kernel"}),
        ("tokenformer", {}, {"blocks/ff/key", "blocks/ff/value"}),
    ],
)
def test_muon_treats_every_matrix_of_a_stack_by_itself(family, model, orthogonal):
    """Layers, experts, and a gate beside what it multiplies: of each the singular values are near one."""
    run, _ = freeze.freeze({"family": family, "model": model | {"width": 16, "vocab": 16}, "opt": {"name": "muon"}})
    infos = infos_of(run)
    steps, _ = updates_of(run)
    _, params = updates_of(run)
    for path in orthogonal:
        update = steps[0][path] - run.opt.weight_decay * params[path]
        axes = infos[path].axes
        if "pair" in axes:
            update = np.moveaxis(update, axes.index("pair"), 1)
        values = np.linalg.svd(update, compute_uv=False) / (0.2 * max(update.shape[-2:]) ** 0.5)
        assert values.shape[:-1] == update.shape[:-2]
        assert np.median(values) > 0.6 and values.max() < 1.3, path
    if family == "moe":
        router = steps[0]["blocks/mlp/router/out/kernel"]
        decayed = run.opt.weight_decay * params["blocks/mlp/router/out/kernel"]
        np.testing.assert_allclose(np.abs(router - decayed), 1.0, rtol=1e-3, err_msg="the first step of Adam")


@pytest.mark.parametrize("name", optimizers.optimizer_names())
def test_the_step_has_the_same_size_at_every_width_or_is_refused(name):
    """What muP asks of a step: gradients that are a fourth, at four times the width, move hidden matrices a fourth as far."""
    model = {"parametrization": "mup", "base_width": 8, "base_head_size": 4}
    if not optimizers.transfers(name):
        with pytest.raises(
            InputError, match=f"model.parametrization='mup' has no learning rates for opt.name='{name}'"
        ):
            frozen(name, model)
        return
    base = frozen(name, model, weight_decay=0.0)
    wide = frozen(name, model | {"width": 32}, weight_decay=0.0)
    for path, lr in ((MATRIX, 1 / 4), (EMBED, 1.0), (SCALE, 1.0)):
        moved = []
        for run in (base, wide):
            factors = run.model.factors(infos_of(run)[path])
            only = {path: infos_of(run)[path]}
            transform = optimizer.transform(run, only)
            params = {path: jnp.ones(only[path].shape)}
            # Entries of one size: no optimizer then sees the shape.
            gradient = {path: 1e-3 * factors.gradient_size * params[path]}
            updates, _ = jax.jit(transform.update)(gradient, jax.jit(transform.init)(params), params)
            moved.append(float(jnp.mean(jnp.abs(updates[path]))))
        assert moved[1] / moved[0] == pytest.approx(lr, rel=1e-4), path


def adafactor(gradients, power, eps, clip):
    """Shazeer & Stern 2018, algorithm 4, for one matrix."""
    rows = 0.0
    columns = 0.0
    for number, gradient in enumerate(gradients, start=1):
        kept = 1 - number**-power
        square = gradient**2 + eps
        rows = kept * rows + (1 - kept) * square.sum(1)
        columns = kept * columns + (1 - kept) * square.sum(0)
        step = gradient / np.sqrt(np.outer(rows, columns) / rows.sum())
        yield step / max(1.0, np.sqrt(np.mean(step**2)) / clip)


def test_adafactor():
    run = frozen("adafactor", weight_decay=0.3, clip_rms=0.9)
    steps, params = updates_of(run)
    for path in (MATRIX, OUT):
        layers = [adafactor([g[layer] for g in gradients(run, path)], 0.8, 1e-30, 0.9) for layer in range(3)]
        check(steps, [np.stack(of_layers) + 0.3 * params[path] for of_layers in zip(*layers, strict=True)], path)
    for path in (EMBED, "head/kernel"):
        check(steps, [u + 0.3 * params[path] for u in adafactor(gradients(run, path), 0.8, 1e-30, 0.9)], path)


def test_adafactor_is_that_of_optax_where_matrices_are_not_stacked():
    run = frozen("adafactor", weight_decay=0.0)
    steps, _ = updates_of(run)
    theirs = optax.chain(optax.scale_by_factored_rms(min_dim_size_to_factor=1), optax.clip_by_block_rms(1.0))
    paths = (EMBED, "head/kernel", SCALE)
    state = theirs.init({path: drawn(run, 0)[path] for path in paths})
    for number in range(STEPS):
        grads = {path: drawn(run, 1 + number)[path] for path in paths}
        wanted, state = jax.jit(theirs.update)(grads, state, grads)
        for path in paths:
            np.testing.assert_allclose(steps[number][path], wanted[path], rtol=1e-4, err_msg=path)


def soap(gradients, beta1, beta2, every):
    """Vyas et al. 2024, algorithm 3, for one matrix; the first gradient gives the axes."""
    left = (1 - beta2) * gradients[0] @ gradients[0].T
    right = (1 - beta2) * gradients[0].T @ gradients[0]
    q = np.linalg.eigh(left)[1][:, ::-1]
    p = np.linalg.eigh(right)[1][:, ::-1]
    yield np.zeros_like(gradients[0])
    mean = 0.0
    square = np.zeros_like(gradients[0])
    for number, gradient in enumerate(gradients[1:], start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * (q.T @ gradient @ p) ** 2
        step = (q.T @ mean @ p) / (1 - beta1**number) / (np.sqrt(square / (1 - beta2**number)) + 1e-8)
        yield q @ step @ p.T
        left = beta2 * left + (1 - beta2) * gradient @ gradient.T
        right = beta2 * right + (1 - beta2) * gradient.T @ gradient
        if number % every == 0:
            order = np.argsort(-np.diag(q.T @ left @ q))
            square = square[order]
            q = np.linalg.qr(left @ q[:, order])[0]
            order = np.argsort(-np.diag(p.T @ right @ p))
            square = square[:, order]
            p = np.linalg.qr(right @ p[:, order])[0]


def test_soap():
    # Square matrices: of a longer side most of the first axes carry nothing, and are any.
    run = frozen("soap", {"ff": 8}, beta1=0.8, beta2=0.9, every_steps=2, weight_decay=0.3)
    steps, params = updates_of(run)
    for path in (MATRIX, OUT):
        layers = [soap([g[layer] for g in gradients(run, path)], 0.8, 0.9, 2) for layer in range(3)]
        expected = [np.stack(of_layers) + 0.3 * params[path] for of_layers in zip(*layers, strict=True)]
        check(steps, expected, path, rtol=2e-3)
    check(steps, adam(gradients(run, SCALE), 0.8, 0.9, 1e-8), SCALE)


def test_schedule_free_is_that_of_optax():
    """Parameters are optax's mean x, as a warm-up from zero goes on to a constant rate; decay is that of where gradients are."""
    run = frozen("schedule_free", beta1=0.8, beta2=0.9, weight_decay=0.3)
    transform = optimizer.transform(run, infos_of(run))
    params = drawn(run, 0)
    state = jax.jit(transform.init)(params)
    rates = jnp.asarray([0.0, 0.05, 0.1, 0.1])
    decays = {path: transformations.decay_mask({path: info.axes})[path] for path, info in infos_of(run).items()}
    adamw = optax.chain(
        optax.scale_by_adam(b1=0.0, b2=0.9),
        optax.add_decayed_weights(0.3, decays),
        optax.scale_by_learning_rate(lambda count: rates[count]),
    )
    theirs = optax.contrib.schedule_free(adamw, lambda count: rates[count - 1], b1=0.8)
    where = drawn(run, 0)
    their_state = jax.jit(theirs.init)(where)
    update = jax.jit(transform.update)
    their_update = jax.jit(theirs.update)
    for number in range(STEPS):
        point = optimizer_state.gradient_point(run, infos_of(run), TrainState(params, state, None))
        for path, value in where.items():
            np.testing.assert_allclose(point[path], value, rtol=1e-4, atol=1e-4, err_msg=path)
        gradient = drawn(run, 1 + number)
        updates, state = update(gradient, state, params, lr=rates[number])
        params = {path: params[path] - rates[number] * updates[path] for path in params}
        changes, their_state = their_update(gradient, their_state, where)
        where = optax.apply_updates(where, changes)
    mean = optax.contrib.schedule_free_eval_params(their_state, where)
    for path, value in params.items():
        np.testing.assert_allclose(value, mean[path], rtol=1e-3, atol=1e-4, err_msg=path)


def test_a_rule_of_the_model_sets_iterates_too():
    run = frozen("schedule_free")
    transform = optimizer.transform(run, infos_of(run))
    params = drawn(run, 0)
    ruled = {SCALE: jnp.full(8, 3.0)}
    state = optimizer_state.with_params(run, infos_of(run), transform.init(params), ruled)
    point = optimizer_state.gradient_point(run, infos_of(run), TrainState(params | ruled, state, None))
    np.testing.assert_allclose(point[SCALE], 3.0)
    np.testing.assert_allclose(point[EMBED], params[EMBED], rtol=1e-6)
