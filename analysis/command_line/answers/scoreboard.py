"""Print a scoreboard of laws."""

from collections.abc import Sequence
import math

from rich.console import Console
from rich.table import Column, Table

from analysis.command_line.verdict_line import show_verdicts
from analysis.questions.scoreboard import Score


def show(scores: Sequence[Score], console: Console) -> None:
    """Print for people what the fit of each law to all rows may be asked, and the scoreboard."""
    show_verdicts({score.law: score.verdict for score in scores if score.verdict is not None}, console)
    table = Table(
        Column("law", no_wrap=True),
        "k",
        "held-out error",
        "bias",
        "covered",
        "residual",
        "AICc",
        "not identified",
        title="laws by the error on larger runs than they were fitted to",
        title_justify="left",
    )
    known = [score.aicc for score in scores if math.isfinite(score.aicc)]
    least = min(known, default=0.0)
    for score in scores:
        table.add_row(
            score.law,
            str(score.coefficients),
            _percent(score.held_out_rms, ".2%"),
            _percent(score.held_out_bias, "+.2%"),
            _percent(score.covered, ".0%"),
            _percent(score.rms_residual, ".2%"),
            f"+{score.aicc - least:.1f}" if math.isfinite(score.aicc) else "-",
            ", ".join(score.not_identified) or score.reason,
        )
    console.print(table)


def _percent(value: float, form: str) -> str:
    """Write a share, a dash for one that is not known."""
    return format(value, form) if math.isfinite(value) else "-"
