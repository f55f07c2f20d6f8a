"""Say in one line what is wrong with a checkpoint that cannot be read, and whether reading it again may help."""

from collections.abc import Iterator
import contextlib

from etils import epath
import jax

from experiments.cli import AgainError, WorkError
from experiments.objects.bucket import is_remote
from experiments.store import seals

DAMAGED = ".damaged"  # the end of the name of a checkpoint that was set aside
_SHOWN = 200  # characters of a reader's error
# What TensorStore calls an answer of the disk or the network that may be another the next time.
_UNAVAILABLE = (
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNKNOWN",
)


@contextlib.contextmanager
def explained(folder: epath.Path) -> Iterator[None]:
    """Say in one line what is wrong with the checkpoint in a folder that is read in this context.

    Raises seals.Mismatch, AgainError or WorkError in the place of what readers raise.
    """
    try:
        yield
    except Exception as error:
        chain = _chain(error)
        text = _one_line(chain[-1])
        if any(str(one).startswith("DATA_LOSS") for one in chain):
            raise seals.Mismatch(text) from error
        if any(_is_transient(one) for one in chain):
            raise AgainError(f"{folder} cannot be read now ({text}); run the same command again") from error
        raise WorkError(
            f"{folder} cannot be read ({text}); nothing was changed. To go on from the checkpoint before it, "
            f"rename it to {folder.name}{DAMAGED}"
        ) from error


@contextlib.contextmanager
def saving(folder: epath.Path) -> Iterator[None]:
    """Raise AgainError where a save in this context fails because an object store does not answer.

    What a disk says is raised as it is: the disk is full, or the like.
    """
    try:
        yield
    except Exception as error:
        chain = _chain(error)
        if is_remote(folder) and any(_is_transient(one) for one in chain):
            text = _one_line(chain[-1])
            raise AgainError(f"{folder} cannot be written now ({text}); run the same command again") from error
        raise


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and those that it comes from."""
    chain = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return chain


def _is_transient(error: BaseException) -> bool:
    """Say whether an error is of the disk or the network, and not of what is stored there."""
    if isinstance(error, FileNotFoundError | jax.errors.JaxRuntimeError):
        return False
    return isinstance(error, OSError) or str(error).startswith(_UNAVAILABLE)


def _one_line(error: BaseException) -> str:
    """Return the kind and the text of an error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN]}"
