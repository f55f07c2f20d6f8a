"""Mirror the metrics of a run at Weights & Biases; imported only when execution.wandb names a project.

It is set up by its own environment variables (WANDB_MODE=offline, WANDB_ENTITY, …), none of which is read or recorded
here. The run's id is its fingerprint, so that a resumed run goes on in the same curve; steps that are there already
are not sent twice. Whatever fails here is said once and switches the mirror off: it is never the source of anything.
"""

from collections.abc import Callable
import os
import sys
import tempfile
from typing import Any

from etils import epath

from experiments.cli import InputError
from experiments.objects.bucket import is_remote
from experiments.run import identity
from experiments.run.schema import Run


class WandbMirror:
    """The mirror of one run. Raises InputError when wandb is not installed."""

    def __init__(self, project: str, fingerprint: str, directory: epath.Path, run: Run):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                f"execution.wandb={project}: wandb is not installed ({error}); pip install -r requirements-wandb.txt"
            ) from error
        self._wandb = wandb
        self._run: Any = None
        self._options = {
            "project": project,
            "id": fingerprint,
            "resume": "allow",
            "dir": tempfile.mkdtemp(prefix="wandb-") if is_remote(directory) else os.fspath(directory),
            "config": identity.to_dict(run),
            "reinit": "create_new",  # a population has several runs in one process
            "settings": wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                save_code=False,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        }
        self._off = False

    def _try(self, act: Callable[[], None]) -> None:
        """Do it, and switch the mirror off where that fails."""
        if self._off:
            return
        try:
            act()
        except Exception as error:  # a service that is not ours: anything may come
            self._off = True
            text = " ".join(str(error).split())[:200]
            print(f"wandb: mirror switched off ({type(error).__name__}: {text})", file=sys.stderr)

    def add(self, row: dict[str, Any]) -> None:
        """Send one row; `step` is its step there too."""

        def act() -> None:
            if self._run is None:
                self._run = self._wandb.init(**self._options)
            values = {name: value for name, value in row.items() if name != "step" and value is not None}
            self._run.log(values, step=row["step"])

        self._try(act)

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._try(self._run.finish)
