"""Write texts as a dataset by TFDS. Apart from documents.py because this import takes seconds."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds


class TextDataset(tfds.core.GeneratorBasedBuilder):
    """Texts of one split, in an order that TFDS makes from their keys. `texts`: (key, text)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def __init__(self, *, texts: Iterable[tuple[str, str | bytes]] = (), **options: Any):
        self._texts = texts
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description="Texts.", features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, text in self._texts:
            yield key, {"text": text}
