"""Read which devices take part in a collective together, in all the ways in which HLO writes it.

replica_groups={{0,1},{2,3}}                      a list
replica_groups=[2,4]<=[4,2]T(1,0)                 the numbers 0, 1, … in a shape, transposed, as rows
replica_groups=mesh['a'=4,'b'=2] {'b'}            along the named axes of a mesh; 'a':(2)4 is a part of an axis
source_target_pairs={{0,1},{1,0}}                 of a permutation
"""

import math
import re

import numpy as np

_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_MESH_PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED_GROUPS = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}")
_ROW = re.compile(r"\{([\d,]+)\}")


def replica_groups(attributes: str, partitions: int) -> np.ndarray:
    """Return the devices [groups, members] of a collective; one group of all `partitions` where its attributes do not say."""
    along_axes = _MESH_GROUPS.search(attributes)
    if along_axes:
        mesh, axes = along_axes.groups()
        return _along_axes(mesh, axes)
    iota = _IOTA_GROUPS.search(attributes)
    if iota:
        rows, shape, order = iota.groups()
        return _iota(rows, shape, order)
    listed = _LISTED_GROUPS.search(attributes)
    if listed is None:
        listed = _PAIRS.search(attributes)
    if listed:
        return _listed(listed[1])
    everybody = np.arange(partitions)
    return everybody[None, :]


def _integers(text: str) -> list[int]:
    words = text.split(",")
    return list(map(int, words))


def _iota(rows: str, shape: str, order: str | None) -> np.ndarray:
    """Read `[rows] <= [shape] T(order)`."""
    sizes = _integers(shape)
    count = math.prod(sizes)
    numbers = np.arange(count)
    numbers = numbers.reshape(sizes)
    if order is not None:
        axes = _integers(order)
        numbers = numbers.transpose(axes)
    result = _integers(rows)
    return numbers.reshape(result)


def _listed(text: str) -> np.ndarray:
    """Read `{0,1},{2,3}`; of rows of several lengths those as long as the first."""
    rows = []
    for row in _ROW.findall(text):
        devices = _integers(row)
        if not rows or len(devices) == len(rows[0]):
            rows.append(devices)
    return np.array(rows)


def _along_axes(mesh: str, axes: str) -> np.ndarray:
    """Read groups along axes of a mesh, or along parts of axes: of `'a':(2)4` in an axis of 16, the middle of 2 x 4 x 2."""
    parts = {}
    for name, before, size in _MESH_PART.findall(axes):
        parts[name] = (before, size)
    sizes: list[int] = []
    along: list[int] = []
    for name, text in _MESH_AXIS.findall(mesh):
        whole = int(text)
        here = len(sizes)
        before, size = parts.get(name, ("", ""))
        if size:
            first = int(before)
            middle = int(size)
            last = whole // (first * middle)
            along.append(here + 1)
            sizes += [first, middle, last]
        else:
            if name in parts:
                along.append(here)
            sizes.append(whole)
    numbers = np.arange(math.prod(sizes))
    numbers = numbers.reshape(sizes)
    # The axes of a group come last, and together make its members.
    numbers = np.moveaxis(numbers, along, range(-len(along), 0))
    members = 1
    for axis in along:
        members *= sizes[axis]
    return numbers.reshape(-1, members)
