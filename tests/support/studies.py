"""Make the nodes of a study."""

from experiments.run import identity
from sweeps.study import grid as axes
from sweeps.study.cells import freeze_points
from sweeps.work import workdir


def nodes_of(grid: axes.Grid) -> list[workdir.Node]:
    """Nodes of a grid as if their corpus had fingerprint m."""
    cells = freeze_points(grid)
    return [workdir.Node(identity.fingerprint(c.run, ("m",)), c.name, c.run, c.execution, ("m",)) for c in cells]
