# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of numbers, and the one table they may stand in: same extractor, same classifier, same test set, or none."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hero_core.errors import HeroError

Value = dict[str, float]  # "mean" with "half_width", or "value" with "low" and "high" and chance levels

# key -> head of the column, factor, decimals
COLUMNS = {
    "fid": ("FID ↓", 1.0, 3),
    "diversity": ("Diversity →", 1.0, 3),
    "multimodality": ("MultiModality ↑", 1.0, 3),
    "class": ("fits the class % ↑", 100.0, 1),
    "group": ("fits the group % ↑", 100.0, 1),
    "fitting": ("fitting kind % ↑", 100.0, 1),
    "skating": ("skating % ↓", 100.0, 1),
    "floating_cm": ("floating cm →", 1.0, 2),
    "penetration_cm": ("penetration cm ↓", 1.0, 2),
    "jerk": ("jerk m/s³ →", 1.0, 1),
    "speed": ("speed m/s →", 1.0, 2),
    "pelvis_moved_m": ("pelvis moved m →", 1.0, 2),
    "pelvis_lowest_m": ("lowest pelvis m →", 1.0, 2),
    "bone_error_cm": ("bone error cm ↓", 1.0, 2),
    "seconds": ("length s →", 1.0, 2),
}


@dataclass(frozen=True)
class Row:
    """What was found for one way of making reactions, and what it was measured with and on."""

    name: str
    evaluator: str  # FeatureExtractor.identity
    classifier: str  # the same of the classifier; "" = none
    test_set: str  # fingerprint of clips, reactions and lengths
    values: dict[str, Value]
    made_by: dict[str, Any] = field(default_factory=dict)  # model, folder, seeds


def check(rows: Sequence[Row]) -> None:
    """Raises HeroError where rows do not belong into one table."""
    for key, what in (("evaluator", "evaluators"), ("classifier", "classifiers"), ("test_set", "test sets")):
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(getattr(row, key) or "none", []).append(row.name)
        if len(found) > 1:
            parts = "; ".join(f"{which}: {', '.join(names)}" for which, names in found.items())
            raise HeroError(
                f"Numbers of different {what} mean nothing beside each other ({parts}); measure all rows with one."
            )


def cell(key: str, value: Value | None) -> str:
    """One number as the table shows it: mean ± half the 95 % interval, or a share with its interval."""
    if value is None:
        return "–"
    _, factor, digits = COLUMNS[key]
    if "value" in value:
        low, high = (f"{factor * value[k]:.{digits}f}" for k in ("low", "high"))
        return f"{factor * value['value']:.{digits}f} [{low}, {high}]"
    half = f" ± {factor * value['half_width']:.{digits}f}" if "half_width" in value else ""
    return f"{factor * value['mean']:.{digits}f}{half}"


def markdown(rows: Sequence[Row]) -> str:
    """The table, with what it was measured with beneath.

    Raises:
        HeroError: the rows are of different evaluators, classifiers or test sets.
    """
    if not rows:
        raise HeroError("A table needs at least one row.")
    check(rows)
    columns = [key for key in COLUMNS if any(key in row.values for row in rows)]
    lines = [
        "| | " + " | ".join(COLUMNS[key][0] for key in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {row.name} | " + " | ".join(cell(key, row.values.get(key)) for key in columns) + " |" for row in rows),
    ]
    first = rows[0]
    notes = [f"Evaluator: {first.evaluator}. Test set: {first.test_set}. ± and [ ] are 95 % intervals."]
    if first.classifier:
        judged = next((row.values for row in rows if "class" in row.values), {})
        chances = [
            f"{key} {100 * judged[key]['uniform']:.1f} % (all answers alike), "
            f"{100 * judged[key]['frequencies']:.1f} % (as often as the classes come)"
            for key in ("class", "group", "fitting")
            if key in judged
        ]
        notes.append(f"Classifier: {first.classifier}. Chance: {'; '.join(chances)}.")
    return "\n".join([*lines, "", *notes]) + "\n"


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a report."""
    try:
        return [Row(**row) for row in json.loads(Path(path).read_text(encoding="utf-8"))["rows"]]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as err:
        raise HeroError(f"'{path}' is no report of an evaluation ({err}); make it again.") from err
