"""Show what is prepared of a corpus."""

from rich.table import Table
from rich.text import Text

from experiments.data import lossless
from experiments.data.manifest import Manifest, Split


def table(manifest: Manifest) -> Table:
    """Return what is prepared of a corpus as a table under its name, which may be longer than a column can be.

    nats: the unigram entropy of the training tokens. lossless: the share of the documents that decode back.
    """
    out = Table(title=Text(manifest.source, overflow="fold"), title_justify="left")
    out.add_column("split", no_wrap=True)
    for name in ("documents", "tokens", "bytes", "B/token", "nats", "lossless"):
        out.add_column(name, justify="right", no_wrap=True)
    entropy = f"{manifest.unigram_entropy_nats:.4f}"
    out.add_row("train", *_sizes(manifest.train), entropy, _share(manifest))
    out.add_row("held out", *_sizes(manifest.holdout), "", "")
    return out


def _share(manifest: Manifest) -> str:
    """Return the share of the documents that decode back, in words."""
    return "not tried" if manifest.lossless is None else lossless.percent(manifest.lossless)


def true_entropy(manifest: Manifest) -> str:
    """Return the entropy of the process that made a text, in words."""
    nats = f"{manifest.entropy_nats:.4f} nats per token"
    error = manifest.entropy_nats_error
    return f"{nats} (+- {error:.1g}, {manifest.details['entropy']['method']})" if error else f"{nats} (exact)"


def _sizes(split: Split) -> tuple[str, str, str, str]:
    """Return documents, tokens, bytes and bytes a token of a split, in words."""
    bytes_per_token = split.bytes / max(split.tokens, 1)
    return f"{split.documents:,}", f"{split.tokens:,}", f"{split.bytes:,}", f"{bytes_per_token:.4f}"
