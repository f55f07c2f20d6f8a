"""TFDS builder of local text files (`reading` says what a document is)."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from etils import epath
import tensorflow_datasets as tfds

from experiments.cli import InputError
from experiments.data.sources import reading


class LocalText(tfds.core.GeneratorBasedBuilder):
    """Texts of .txt, .jsonl and .parquet files, in an order that TFDS makes from (file number, document number)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def __init__(self, *, files: Sequence[epath.Path] = (), text_field: str = "text", **options: Any):
        self._files, self._field = files, text_field
        self.dropped: dict[str, int] = {}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description="Local text files.", features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        index = -1
        for number, path in enumerate(self._files):
            for text in reading.documents(path, self._field):
                index += 1
                yield f"{number}:{index}", {"text": text}
        if index < 0:
            raise InputError(f"data.corpus: no text in {', '.join(map(str, self._files[:5]))}")
