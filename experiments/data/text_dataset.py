"""Write texts as a dataset by TFDS. Apart from documents.py because this import takes seconds."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds


class _Info(tfds.core.DatasetInfo):
    """A description that is not looked for elsewhere first."""

    def initialize_from_bucket(self) -> None:
        """Ask no server for a dataset that is made here; TFDS would leave an empty temporary folder behind."""


class TextDataset(tfds.core.GeneratorBasedBuilder):
    """Texts of one split, in an order that TFDS makes from their keys.

    rows: (key, its text and more). in_pieces: also of which document it is a piece, and where there.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def __init__(self, *, rows: Iterable[tuple[str, dict[str, Any]]] = (), in_pieces: bool = False, **options: Any):
        self._rows = rows
        self._in_pieces = in_pieces
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        named: dict[str, Any] = {"text": tfds.features.Text()}
        if self._in_pieces:
            named["document"] = tfds.features.Text()
            named["position"] = tfds.features.Scalar(np.int64)
        features = tfds.features.FeaturesDict(named)
        return _Info(builder=self, description="Texts.", features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self._rows
