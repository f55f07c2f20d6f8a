"""Runs of this launch that another launcher trains: waited for, or taken over once nobody is at them any more."""

import dataclasses
import time

from sweeps.work.workdir import Node, Workdir

LOOK_SECONDS = 2.0  # between two looks


@dataclasses.dataclass(frozen=True)
class Change:
    """What has become of such runs since the last look."""

    recorded: int = 0  # they have their record now
    orphans: tuple[Node, ...] = ()  # nobody trains them, and they have no record


class Elsewhere:
    """The runs that another launcher is at, as long as it is."""

    def __init__(self, workdir: Workdir):
        self._workdir = workdir
        self._nodes: dict[str, Node] = {}  # by fingerprint
        self._looked_at = 0.0  # on the monotonic clock

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: Node) -> None:
        """Wait for a run that somebody else has claimed."""
        self._nodes[node.fingerprint] = node

    def look(self) -> Change:
        """See which of them nobody is at any more; nothing when the last look was just now."""
        if not self._nodes or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return Change()
        self._looked_at = time.monotonic()
        recorded = 0
        orphans = []
        for fingerprint, node in list(self._nodes.items()):
            if self._workdir.claims.by_other(fingerprint) is not None:
                continue
            del self._nodes[fingerprint]
            if self._workdir.finished(fingerprint):
                recorded += 1
            else:
                orphans.append(node)
        return Change(recorded, tuple(orphans))
