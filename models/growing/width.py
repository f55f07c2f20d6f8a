"""Widen one parameter: copy its channels, or put the old ones beside new ones that start as zero or at random.

Du et al. 2024 (arXiv 2405.15319) order the operators so; models/growing/operators.py lists them.
"""

from typing import Any

import numpy as np

from models.growing.plan import GrowingParameter


def along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Reshape a vector to an array of `rank` axes that varies along one of them."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def new_outputs(one: GrowingParameter) -> np.ndarray:
    """Say which entries are new along an output axis; broadcasts to the parameter."""
    rank = len(one.widths)
    reads = one.target.input_axis
    new = np.zeros([1] * rank, bool)
    for axis, width in one.wider_axes:
        if axis != reads:
            new = new | along(width.new, axis, rank)
    return new


def copy_channels(
    one: GrowingParameter, value: np.ndarray, *, aki: bool, shares_of_head: bool, moments: bool
) -> np.ndarray:
    """Copy channels and heads, and share out what reads them among the copies (Net2Net, Chen et al. 2016).

    aki: new output channels are those of the layer after (bert2BERT, Chen et al. 2022).
    shares_of_head: the parameter is the last norm, read by a head that is the embedding: then the shares go here.
    moments: copies of Adam's moments stay whole.
    """
    rank = value.ndim
    reads = one.target.input_axis
    shared = rank - 1 if reads is None and shares_of_head else reads

    def widen(value: np.ndarray) -> np.ndarray:
        for axis, width in one.wider_axes:
            value = value.take(width.index, axis)
            if axis == shared and not moments:
                value = value * along(width.share, axis, rank).astype(value.dtype)
        return value

    wide = widen(value)
    if not aki or not one.target.in_layers or one.target.is_norm_scale:
        return wide
    layer_after = np.concatenate([value[1:], value[-1:]])
    return np.where(new_outputs(one), widen(layer_after), wide)


def put_beside_new(
    one: GrowingParameter,
    value: np.ndarray,
    fresh: np.ndarray,
    *,
    zero: bool,
    joined: np.ndarray | None,
    moments: bool,
) -> np.ndarray:
    """Put the old channels into `fresh`, the parameter's own initial values, where they stand in the larger model.

    zero: new output channels of the old inputs start as zero; otherwise they stay at random.
    joined: dimensions of query heads whose outputs have to start as zero for the function to be the same; see
        `joined_heads`. None: nothing of the kind is read.
    """
    rank = value.ndim
    reads = one.target.input_axis
    places = [np.arange(size) for size in fresh.shape]
    for axis, width in one.wider_axes:
        old = ~width.new
        places[axis] = np.flatnonzero(old)
        value = value.take(width.index[old], axis)

    out = np.array(fresh)
    if one.target.is_norm_scale:
        if not moments:
            # Old channels have to come out of the norm as they did, though its mean now counts zeros as well.
            value = value * (value.shape[-1] / fresh.shape[-1]) ** 0.5
    elif zero and not moments:
        out = np.where(new_outputs(one) & ~_new_inputs(one), 0, out)
    # A matrix that reads all heads: the outputs of joined ones would add to what the old heads give.
    if joined is not None and reads is not None and one.widths[reads] is not None:
        if one.target.axes[reads] == "heads":
            out = np.where(along(joined, reads, rank), 0, out)
    out[np.ix_(*places)] = value
    return out


def _new_inputs(one: GrowingParameter) -> np.ndarray:
    """Say which entries read a new input channel; broadcasts to the parameter."""
    rank = len(one.widths)
    reads = one.target.input_axis
    width = None if reads is None else one.widths[reads]
    if reads is None or width is None:
        return np.zeros([1] * rank, bool)
    return along(width.new, reads, rank)


def joined_heads(old: Any, new: Any) -> np.ndarray | None:
    """Say which dimensions of query heads belong to new heads that read an old key-value head; configs `old` and `new`.

    The values that they read are not zero, as a new key-value head's are. None for a model without such heads.
    """
    if not hasattr(new, "kv_heads"):
        return None
    head = np.arange(new.heads)
    group_size = new.heads // new.kv_heads
    group = head // group_size
    member = head % group_size
    joined = (group < old.kv_heads) & (member >= old.heads // old.kv_heads)
    return np.repeat(joined, new.head_size)
