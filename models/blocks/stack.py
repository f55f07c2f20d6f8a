"""Stack equal layers, run them as a scan or unrolled, and recompute what memory asks for."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array

from models.mesh.current import backend

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


def stack(make: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, count: int) -> nnx.Module:
    """`count` independently initialised copies of one module as a single module with a leading layer axis."""
    keys = jax.random.split(rngs.params(), count)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(params=0))))
    return nnx.merge(graphdef, jax.vmap(lambda key: nnx.state(make(nnx.Rngs(params=key))))(keys))


def stacks(rngs: nnx.Rngs, runs: Sequence[tuple[Callable[[nnx.Rngs], nnx.Module], int]]) -> nnx.Module:
    """(maker, count) of each run of layers of one shape, first to last: a `stack`, or a dictionary of several."""
    if len(runs) == 1:
        return stack(runs[0][0], rngs, runs[0][1])
    return nnx.Dict({f"{i:03}": stack(make, rngs, count) for i, (make, count) in enumerate(runs)})


def apply_stack(module: nnx.Module, x: Array, *inputs: Array, unroll: bool | None, remat: str) -> Array:
    """Feed `x` through the layers of a `stack` or of several; see `fold_stack`."""
    return fold_stack(lambda layer, x, *row: (layer(x, *row), None), module, x, *inputs, unroll=unroll, remat=remat)[0]


def fold_stack(
    call: Callable[..., tuple[Any, Any]],
    module: nnx.Module,
    carry: Any,
    *inputs: Array,
    unroll: bool | None,
    remat: str,
) -> tuple[Any, Any]:
    """Carry a tree of arrays through the layers of a `stack` or of several, by scan or unrolled: the same numbers.

    `call(layer, carry, *row)` returns the carry of the next layer and what this one reports, a tree; the reports come
    back stacked over layers. Each of `inputs` has a leading layer axis, and `row` is a layer's part of it.
    `unroll` None unrolls on a CPU (1.2x faster steps there, at the price of compile time) and scans elsewhere.
    `remat` says what the backward pass computes again: "none" nothing, "dots" all but matmuls, "attention" all but what
    attention gives (models/families/dense.py names it), "full" everything from the layer's input, and "offload" the same from
    inputs that wait in the host's memory.
    """
    if isinstance(module, nnx.Dict):
        reports, start = [], 0
        for name in sorted(module):
            stop = start + jax.tree.leaves(nnx.state(module[name]))[0].shape[0]
            rows = (x[start:stop] for x in inputs)
            carry, report = fold_stack(call, module[name], carry, *rows, unroll=unroll, remat=remat)
            reports, start = [*reports, report], stop
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *reports)
    graphdef, layers = nnx.split(module)
    depth = jax.tree.leaves(layers)[0].shape[0]
    unroll = backend() == "cpu" and depth <= 16 if unroll is None else unroll

    def body(carry: Any, rows: tuple[Any, ...]) -> tuple[Any, Any]:
        layer, *row = rows
        if remat == "offload":
            carry = jax.tree.map(lambda x: checkpoint_name(x, "layer"), carry)
        return call(nnx.merge(graphdef, layer), carry, *row)

    if remat != "none":
        body = jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=unroll)
    return jax.lax.scan(body, carry, (layers, *inputs), unroll=depth if unroll else 1)
