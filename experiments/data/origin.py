"""Describe a corpus before it is prepared. experiments/data/sources says what there is of each kind."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from models.errors import InputError


@dataclasses.dataclass(frozen=True)
class Origin:
    """An entry of data.corpus as it is now.

    `options` go into the manifest and its fingerprint: what was asked for, as far as it can change the documents.
    `inputs` hashes what the documents depend on; None: they are not here, and `problem` says why. `details` are for
    the reader of the manifest.
    """

    name: str
    options: Mapping[str, Any]
    inputs: str | None
    details: Mapping[str, Any]
    problem: InputError | None = None

    @property
    def kind(self) -> str:
        """Return the name of the source's file."""
        return self.options["kind"]
