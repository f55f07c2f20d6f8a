"""Write the metrics of a run as it goes: one JSON object a line, and the mirrors that show them as well.

metrics.jsonl is the source of curves; TensorBoard's files and a service such as Weights & Biases are copies of it, which
nothing here reads.
"""

from collections.abc import Sequence
import json
import sys
from typing import Any, Protocol

from etils import epath

from experiments import files
from experiments.store.record import finite_or_null

Row = dict[str, Any]  # `step`, `tokens`, and values by name
EVALUATED = "eval_loss"  # column that the rows of evaluations have, and no others


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
        self._evaluated: int | None = None  # newest step whose evaluation the log has

    def cut(self, step: int) -> None:
        """Forget rows after `step` (and a half-written last line): they will be written again.

        A line in the middle that cannot be read is left out, and said so.
        """
        kept = self._rows_until(step) if self.path.exists() else []
        content = "".join(line + "\n" for line, _ in kept)
        files.write_bytes(self.path, content.encode())
        evaluated = [row["step"] for _, row in kept if EVALUATED in row]
        self._evaluated = max(evaluated, default=None)
        if self._tensorboard:
            self._tensorboard.begin_at(step + 1)

    def _rows_until(self, step: int) -> list[tuple[str, Row]]:
        """Return lines and rows up to a step, without those that cannot be read."""
        kept = []
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), start=1):
            try:
                row = files.parse(line)
                if row["step"] <= step:
                    kept.append((line.decode().rstrip(), row))
            except (ValueError, KeyError, TypeError):
                # The last line of a process that was killed has no end: that is no damage.
                if line.endswith(b"\n"):
                    print(f"{self.path}: line {number} cannot be read and is left out", file=sys.stderr)
        return kept

    def append_evaluation(self, row: Row) -> None:
        """Write the row of an evaluation, unless the log has one of this step: of before the run was resumed there."""
        if row["step"] != self._evaluated:
            self.append(row)
            self._evaluated = row["step"]

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
