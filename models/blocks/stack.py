"""Stack equal layers, run them as a scan or unrolled, and recompute what memory asks for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array

from models.mesh.current import backend

UNROLLED = 16  # layers at most that a CPU unrolls by itself

# What the backward pass finds and need not compute again: `remat` of `fold_stack`; "none" is no policy.
_POLICIES: dict[str, Any] = {
    "dots": jax.checkpoint_policies.save_from_both_policies(  # a matmul with a gradient of its own is found by its name
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("product"),
    ),
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "full": None,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["layer"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}

REMAT = ("none", *_POLICIES)


class Run(NamedTuple):
    """Neighbouring layers of one shape: how to make one, and how many there are."""

    make: Callable[[nnx.Rngs], nnx.Module]
    count: int


def stack(make: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, count: int) -> nnx.Module:
    """Make `count` independently initialised copies of a module as a single one with a leading layer axis."""
    keys = jax.random.split(rngs.params(), count)
    graphdef, states = jax.vmap(lambda key: nnx.split(make(nnx.Rngs(params=key))))(keys)
    return nnx.merge(graphdef, states)


def stacks(rngs: nnx.Rngs, runs: Sequence[Run]) -> nnx.Module:
    """Make the layers of all runs, first to last: a `stack`, or a dictionary of several."""
    if len(runs) == 1:
        return stack(runs[0].make, rngs, runs[0].count)
    made = {}
    for number, run in enumerate(runs):
        made[f"{number:03}"] = stack(run.make, rngs, run.count)
    return nnx.Dict(made)


def depth_of(module: nnx.Module) -> int:
    """Return how many layers a `stack` has."""
    first = jax.tree.leaves(nnx.state(module))[0]
    return first.shape[0]


def apply_stack(
    module: nnx.Module, x: Array, *inputs: Array | None, unroll: bool | None, remat: str, context: Any = None
) -> Array:
    """Feed `x` through the layers of a `stack` or of several; see `fold_stack`.

    `context` (models/blocks/context.py), where there is one, is the last argument of each layer.
    """

    def call(layer: Any, x: Array, *row: Array | None) -> tuple[Array, None]:
        if context is None:
            return layer(x, *row), None
        own = row[: len(inputs)]
        of_layer = row[len(inputs) :]
        return layer(x, *own, context.in_layer(*of_layer)), None

    of_layers = () if context is None else context.by_layer
    x, _ = fold_stack(call, module, x, *inputs, *of_layers, unroll=unroll, remat=remat)
    return x


def fold_stack(
    call: Callable[..., tuple[Any, Any]],
    module: nnx.Module,
    carry: Any,
    *inputs: Array | None,
    unroll: bool | None,
    remat: str,
) -> tuple[Any, Any]:
    """Carry a tree of arrays through the layers of a `stack` or of several, by scan or unrolled: the same numbers.

    `call(layer, carry, *row)` returns the carry of the next layer and what this one reports, a tree; the reports come
    back stacked over layers. The pasts of layers that have one (models/blocks/past.py) are moved on in `module`. Each of
    `inputs` has a leading layer axis or is None, and `row` is a layer's part of it.
    `unroll` None unrolls on a CPU (1.2x faster steps there, at the price of compile time) and scans elsewhere.
    `remat` says what the backward pass computes again: "none" nothing, "dots" all but matmuls, "attention" all but what
    attention gives (models/families/dense.py names it), "full" everything from the layer's input, and "offload" the
    same from inputs that wait in the host's memory.
    """
    if isinstance(module, nnx.Dict):
        return _fold_stacks(call, module, carry, *inputs, unroll=unroll, remat=remat)
    graphdef, layers = nnx.split(module)
    depth = depth_of(module)
    if unroll is None:
        unroll = backend() == "cpu" and depth <= UNROLLED

    def body(carry: Any, rows: tuple[Any, ...]) -> tuple[Any, Any]:
        values, *row = rows
        if remat == "offload":
            carry = jax.tree.map(lambda x: checkpoint_name(x, "layer"), carry)
        layer = nnx.merge(graphdef, values)
        carry, report = call(layer, carry, *row)
        return carry, (report, nnx.state(layer, nnx.Cache))

    if remat != "none":
        body = jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=unroll)
    carry, (reports, pasts) = jax.lax.scan(body, carry, (layers, *inputs), unroll=depth if unroll else 1)
    nnx.update(module, pasts)  # of layers that have one
    return carry, reports


def _fold_stacks(
    call: Callable[..., tuple[Any, Any]],
    stacks: nnx.Dict,
    carry: Any,
    *inputs: Array | None,
    unroll: bool | None,
    remat: str,
) -> tuple[Any, Any]:
    """Do what `fold_stack` does for several stacks, one after the other."""
    reports = []
    start = 0
    for name in sorted(stacks):
        stop = start + depth_of(stacks[name])
        rows = [None if x is None else x[start:stop] for x in inputs]
        carry, report = fold_stack(call, stacks[name], carry, *rows, unroll=unroll, remat=remat)
        reports.append(report)
        start = stop
    return carry, jax.tree.map(lambda *of_stacks: jnp.concatenate(of_stacks), *reports)
