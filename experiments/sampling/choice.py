"""Choose the next token from logits: the likeliest, or a draw from the distribution, or from its head."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.errors import InputError


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a token is chosen. Logits are divided by `temperature`, then `top_k` leaves the best, then `top_p` of these.

    temperature: 0 takes the likeliest token (greedy); 1 is the model's own distribution.
    top_k: so many of the likeliest tokens.
    top_p: the fewest of the likeliest whose probabilities add up to so much (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def check(self) -> None:
        """Raise InputError, naming the option, for one that cannot be, or that would do nothing."""
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"--temperature={self.temperature}; expected 0 (the likeliest token) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"--top_k={self.top_k}; expected at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"--top_p={self.top_p}; expected a share above 0 and at most 1")
        for name in ("top_k", "top_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise InputError(f"--{name} has an effect only where --temperature is above 0")


def choose(logits_BV: Float[Array, "B V"], key_B: Array, choice: Choice) -> Array:
    """Return a token for each row, drawn with its own key."""
    if choice.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1)
    scaled_BV = logits_BV / choice.temperature
    draw = jax.vmap(jax.random.categorical)
    if choice.top_k is None and choice.top_p is None:
        return draw(key_B, scaled_BV)
    vocabulary = logits_BV.shape[1]
    kept = min(choice.top_k or vocabulary, vocabulary)
    best_BC, token_BC = jax.lax.top_k(scaled_BV, kept)
    if choice.top_p is not None:
        p_BC = jax.nn.softmax(best_BC, axis=-1)
        likelier_BC = jnp.cumsum(p_BC, axis=-1) - p_BC  # what the tokens before each add up to
        best_BC = jnp.where(likelier_BC < choice.top_p, best_BC, -jnp.inf)
    place_B = draw(key_B, best_BC)
    return jnp.take_along_axis(token_BC, place_B[:, None], axis=1)[:, 0]
