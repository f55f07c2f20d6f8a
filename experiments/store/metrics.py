"""Write the metrics of a run as it goes."""

from collections.abc import Sequence
import json
from typing import Any, Protocol

from etils import epath

from experiments import files
from experiments.store.record import _finite


class Mirror(Protocol):
    """Where metrics are shown as well. Never the source of anything: what fails here must not fail the run."""

    def add(self, row: dict[str, Any]) -> None:
        """One row, as `Metrics.append` has it."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class Metrics:
    """The append-only log of a run, and its mirrors: TensorBoard, and those given."""

    def __init__(self, directory: epath.Path, tensorboard: bool, mirrors: Sequence[Mirror] = ()):
        self.path, self._writer, self._mirrors = directory / "metrics.jsonl", None, tuple(mirrors)
        self._tensorboard, self._directory, self._rows = tensorboard, directory / "tb", 0
        self._file: Any = None

    def cut(self, step: int) -> None:
        """Forget rows after `step` (and a half-written last line): they will be written again."""
        kept = []
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    if files.parse(line)["step"] <= step:
                        kept.append(line.decode())
                except (ValueError, KeyError, TypeError):
                    break
        files.write_bytes(self.path, "".join(line + "\n" for line in kept).encode())
        self._rows, self._purge = len(kept), step + 1

    def append(self, row: dict[str, Any]) -> None:
        """One row: `step`, `tokens`, and values by name. Non-finite values are written as null."""
        if self._file is None:
            self._file = self.path.open("a")
        self._file.write(json.dumps({name: _finite(value) for name, value in row.items()}) + "\n")
        self._file.flush()
        if self._tensorboard:
            self._mirror(row)
        for mirror in self._mirrors:
            mirror.add(row)

    def _mirror(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=self._purge, flush_secs=30)
        for name, value in row.items():
            if name not in ("step", "tokens") and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])

    def rewind(self, step: int) -> None:
        """Go back to a step while the run is under way."""
        self._release()
        self.cut(step)

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()
        self._file = self._writer = None

    def close(self) -> None:
        """Flush all logs."""
        self._release()
        for mirror in self._mirrors:
            mirror.close()
