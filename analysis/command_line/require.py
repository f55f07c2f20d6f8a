"""Let a script demand an answer: with --require=identified a command fails where the rows do not tell what it was asked.

Without it such a command ends with 0: that the rows do not tell a number is an answer, which its first line and its JSON
give. Imports nothing heavy, so that --help is instant.
"""

from collections.abc import Mapping

from absl import flags

from experiments.cli import WorkError


def define() -> None:
    """Declare the flag."""
    flags.DEFINE_enum(
        "require",
        None,
        ["identified"],
        "identified: end with exit code 1 where the rows do not tell all that is asked for. What was found is written and "
        "printed all the same.",
    )


def check(unknown: Mapping[str, str]) -> None:
    """Raise WorkError where --require is given and numbers are not known. unknown: number -> why."""
    if flags.FLAGS.require is None or not unknown:
        return
    names = ", ".join(unknown)
    why = next(iter(unknown.values()))
    raise WorkError(f"--require=identified: the rows do not tell {names} ({why})")
