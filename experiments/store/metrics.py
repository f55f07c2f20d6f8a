"""Write the metrics of a run as it goes: one JSON object a line, and the mirrors that show them as well.

The log (segments.py) is the source of curves; TensorBoard's files and a service such as Weights & Biases are copies of it, which
nothing here reads.
"""

from collections.abc import Sequence
import json
from typing import Any, Protocol

from etils import epath

from experiments.store import segments
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
    """The log of a run (segments.py), and its mirrors: TensorBoard, and those given."""

    def __init__(self, directory: epath.Path, tensorboard: bool, mirrors: Sequence[Mirror] = ()):
        self.directory = directory
        self._writer: segments.DiskWriter | segments.ObjectWriter | None = None
        self._next_segment = 1
        self._tensorboard = TensorBoard(directory / "tb") if tensorboard else None
        self._mirrors = tuple(mirrors)
        self._evaluated: int | None = None  # newest step whose evaluation the log has

    def cut(self, step: int) -> None:
        """Forget rows after `step` (and a half-written last line): they will be written again.

        A line in the middle that cannot be read is left out, and said so.
        """
        self._next_segment, kept = segments.cut(self.directory, step)
        evaluated = [row["step"] for row in kept if EVALUATED in row]
        self._evaluated = max(evaluated, default=None)
        if self._tensorboard:
            self._tensorboard.begin_at(step + 1)

    def append_evaluation(self, row: Row) -> None:
        """Write the row of an evaluation, unless the log has one of this step: of before the run was resumed there."""
        if row["step"] != self._evaluated:
            self.append(row)
            self._evaluated = row["step"]

    def append(self, row: Row) -> None:
        """Write one row: `step`, `tokens`, and values by name. Non-finite values are written as null."""
        if self._writer is None:
            self._writer = segments.writer(self.directory, self._next_segment)
        plain = {name: finite_or_null(value) for name, value in row.items()}
        self._writer.append(json.dumps(plain).encode() + b"\n")
        if self._tensorboard:
            self._tensorboard.add(row)
        for mirror in self._mirrors:
            mirror.add(row)

    def publish(self) -> None:
        """Have all rows so far where others see them: before a checkpoint, behind which nobody would write them again."""
        if self._writer is not None:
            self._writer.publish()

    def rewind(self, step: int) -> None:
        """Go back to a step while the run is under way."""
        self._release()
        self.cut(step)

    def _release(self) -> None:
        """Close the log and its mirrors."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._tensorboard:
            self._tensorboard.close()

    def close(self) -> None:
        """Flush all logs."""
        self._release()
        for mirror in self._mirrors:
            mirror.close()
