"""Write the metrics of a run as it goes: one JSON object a line, and the mirrors that show them as well.

metrics.jsonl is the source of curves; TensorBoard's files and a service such as Weights & Biases are copies of it, which
nothing here reads.
"""

from collections.abc import Sequence
import json
from typing import Any, Protocol

from etils import epath

from experiments import files
from experiments.store.record import finite_or_null

Row = dict[str, Any]  # `step`, `tokens`, and values by name


class Mirror(Protocol):
    """Where metrics are shown as well. Never the source of anything: what fails here must not fail the run."""

    def add(self, row: Row) -> None:
        """Show one row, as `Metrics.append` has it."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class TensorBoard:
    """Shows rows in TensorBoard. Its files are opened with the first row."""

    def __init__(self, directory: epath.Path):
        self._directory = directory
        self._writer: Any = None
        self._first_step: int | None = None

    def begin_at(self, step: int) -> None:
        """Let what was shown of this step and those after it disappear, the next time that files are opened."""
        self._first_step = step

    def add(self, row: Row) -> None:
        """Show the numbers of one row."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=self._first_step, flush_secs=30)
        for name, value in row.items():
            if name not in ("step", "tokens") and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush; files are opened again with the next row."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Metrics:
    """The append-only log of a run, and its mirrors: TensorBoard, and those given."""

    def __init__(self, directory: epath.Path, tensorboard: bool, mirrors: Sequence[Mirror] = ()):
        self.path = directory / "metrics.jsonl"
        self._file: Any = None
        self._tensorboard = TensorBoard(directory / "tb") if tensorboard else None
        self._mirrors = tuple(mirrors)

    def cut(self, step: int) -> None:
        """Forget rows after `step` (and a half-written last line): they will be written again."""
        kept = self._lines_until(step) if self.path.exists() else []
        content = "".join(line + "\n" for line in kept)
        files.write_bytes(self.path, content.encode())
        if self._tensorboard:
            self._tensorboard.begin_at(step + 1)

    def _lines_until(self, step: int) -> list[str]:
        """Return the lines up to a step, and none from the first that cannot be read."""
        kept = []
        for line in self.path.read_bytes().splitlines():
            try:
                row = files.parse(line)
                if row["step"] <= step:
                    kept.append(line.decode())
            except (ValueError, KeyError, TypeError):
                break
        return kept

    def append(self, row: Row) -> None:
        """Write one row: `step`, `tokens`, and values by name. Non-finite values are written as null."""
        if self._file is None:
            self._file = self.path.open("a")
        plain = {name: finite_or_null(value) for name, value in row.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()
        if self._tensorboard:
            self._tensorboard.add(row)
        for mirror in self._mirrors:
            mirror.add(row)

    def rewind(self, step: int) -> None:
        """Go back to a step while the run is under way."""
        self._release()
        self.cut(step)

    def _release(self) -> None:
        """Close the log and its mirrors."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._tensorboard:
            self._tensorboard.close()

    def close(self) -> None:
        """Flush all logs."""
        self._release()
        for mirror in self._mirrors:
            mirror.close()
