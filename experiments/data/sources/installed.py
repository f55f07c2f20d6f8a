"""TFDS builder of the embedded corpus (`selection` says which files). Needs no network and no TensorFlow."""

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from experiments.data.sources import selection


class InstalledPython(tfds.core.GeneratorBasedBuilder):
    """Python source of installed packages, one document a file, in an order that TFDS makes from their checksums."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def __init__(self, *, megabytes: int = selection.MEGABYTES, package: str | None = None, **options: Any):
        self._megabytes, self._package = megabytes, package
        self.dropped: dict[str, int] = {}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "package": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description="Source text of installed packages.", features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for source, text in selection.documents(self._megabytes, self.dropped, self._package):
            yield source.checksum, {"text": text, "package": source.package}
