"""Describe a model without its values, as growth looks at it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from models.contract import ParamInfo, Role


class Layout(NamedTuple):
    """A model without its values: family, resolved Config, and every parameter by path."""

    family: str
    cfg: Any
    parameters: Mapping[str, ParamInfo]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters by path."""
        return {path: parameter.shape for path, parameter in self.parameters.items()}

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the head."""
        return all(parameter.role != Role.HEAD for parameter in self.parameters.values())


def same(source: Layout, target: Layout) -> bool:
    """Whether two models have the same parameters, so that nothing has to grow."""
    return source.family == target.family and source.shapes == target.shapes
