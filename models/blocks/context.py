"""What a layer knows of a batch besides its activations: its documents, and keys by which it drops.

A family whose Config has `ContextOptions` hands a `Context` through its layers. An empty one leaves no trace in a program.
Letters of the axes: models/contract.py.
"""

import dataclasses
import enum
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.blocks.options import Options
from models.errors import InputError
from models.mesh.current import constrain
from models.option import BELOW_ONE, NOT_NEGATIVE, option, when

MASKED = when("document_mask", True)

Resolved = TypeVar("Resolved", bound="ContextOptions")


@dataclasses.dataclass(frozen=True)
class ContextOptions(Options):
    """Options of families that hand a `Context` through their layers, besides those of all."""

    dropout: float = option(
        0.0,
        valid=BELOW_ONE,
        growth="free",
        help="share of what is added to the residual stream that is dropped in training, embeddings included",
    )
    document_mask: bool = option(
        False, growth="free", help="documents of one sequence do not see each other, and positions start anew in each"
    )
    separator: int | None = option(
        None,
        valid=NOT_NEGATIVE,
        when=MASKED,
        growth="free",
        help="id in front of every document; none: the tokenizer's",
    )

    @property
    def reads_separator(self) -> bool:
        """As in all families; a mask of documents looks for it."""
        return self.document_mask

    def resolve(self: Resolved, vocab: int, seq_len: int, separator: int | None = None) -> Resolved:
        """As in all families; `separator` is the tokenizer's."""
        resolved = super().resolve(vocab, seq_len)
        if not self.document_mask or self.separator is not None:
            return resolved
        return dataclasses.replace(resolved, separator=separator)

    def check_decoding(self, length: int) -> None:
        """As in all families; and a state goes on within one document."""
        super().check_decoding(length)
        if self.document_mask:
            raise InputError(
                "model.document_mask=True: a state that goes on position by position does not know where a document "
                "begins; expected False"
            )


class Place(enum.IntEnum):
    """Where something is dropped in a layer: each place draws by itself. Blocks of attention count on from WEIGHTS."""

    EMBED = 0
    MIXER = 1
    FEED_FORWARD = 2
    WEIGHTS = 3
    CROSS = 1000
    CROSS_WEIGHTS = 1001


class Context(NamedTuple):
    """What is known of a batch; what is None is not looked at.

    documents_BL, positions_BL: the number of the document of each token, and the token's own in it, both from 0.
    keys: a random key for each sequence, which drops; [Y, B] for all layers, in a layer [B].
    """

    documents_BL: Array | None = None
    positions_BL: Array | None = None
    keys: Array | None = None

    @property
    def by_layer(self) -> tuple[Array, ...]:
        """Return what has a leading axis of layers, as inputs of a stack."""
        return () if self.keys is None else (self.keys,)

    def in_layer(self, *of_layer: Array) -> "Context":
        """Return the context of one layer, which has its part of `by_layer`."""
        return self._replace(keys=of_layer[0]) if of_layer else self

    def forget(self, decay_BLR: Float[Array, "B L R"]) -> Float[Array, "B L R"]:
        """Return decays of a recurrence that are zero where a document starts."""
        if self.positions_BL is None:
            return decay_BLR
        starts_BL1 = self.positions_BL[..., None] == 0
        return jnp.where(starts_BL1, 0, decay_BLR)


def make(cfg: Any, tokens_BL: Integer[Array, "B L"], keys_B: Array | None = None) -> Context:
    """Return the context of a batch, with keys of the layers; without `keys_B` nothing is dropped."""
    documents_BL = None
    positions_BL = None
    keys = None
    if cfg.document_mask:
        documents_BL, positions_BL = _documents(tokens_BL, cfg.separator)
    if keys_B is not None:
        # Number 0 is that of the embedding: see `of_embedding`.
        keys = jax.vmap(lambda layer: _folded(keys_B, layer))(jnp.arange(1, cfg.depth + 1))
    return Context(documents_BL, positions_BL, keys)


def of_embedding(context: Context, keys_B: Array | None) -> Context:
    """Return the context of what stands before the layers."""
    return context._replace(keys=None if keys_B is None else _folded(keys_B, jnp.int32(0)))


def _folded(keys_B: Array, number: Array) -> Array:
    """Return other keys, one for each of these."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, number)


def _documents(tokens_BL: Array, separator: int | None) -> tuple[Array, Array]:
    """Return the number of each token's document, and the number of the token in it. A separator is the first of its own."""
    assert separator is not None, "it is resolved"
    tokens_BL = constrain(tokens_BL, "batch", "attended")
    starts_BL = tokens_BL == separator
    documents_BL = jnp.cumsum(starts_BL, axis=1)
    position_L = jnp.arange(tokens_BL.shape[1])
    start_BL = jax.lax.cummax(jnp.where(starts_BL, position_L, 0), axis=1)
    return documents_BL, position_L - start_BL


def drop(x: Float[Array, "B *rest"], rate: float, context: Context, place: int) -> Float[Array, "B *rest"]:
    """Drop a share of the entries, and scale the others up (Srivastava et al. 2014); without keys return `x`.

    What is dropped depends on the key of each sequence alone: not on the mesh, nor on what else is computed with it.
    """
    if rate == 0 or context.keys is None:
        return x
    keys_B = _folded(context.keys, jnp.int32(place))
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)
