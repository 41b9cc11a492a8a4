"""What a model's folder says of its training: the plan that it was made by, and what the judge found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.errors import ModelError

__all__ = ["RECORD_FILE", "recorded_plan", "write_record"]

RECORD_FILE = "training.json"


def recorded_plan(folder: Path) -> TrainingPlan:
    """The plan that a trained model's folder says it was made by.

    Raises:
        ModelError: if it does not say.
    """
    return TrainingPlan.from_dict(_read(folder)["plan"])


def write_record(folder: Path, plan: TrainingPlan, findings: Mapping[str, Any] | None = None) -> None:
    """Write the record of a folder.

    Args:
        folder: of the model.
        plan: that it was made by.
        findings: the judge's, as JSON has them; those that are recorded stay where None.

    Raises:
        ModelError: if those that are to stay cannot be read.
    """
    kept = _read(folder)["findings"] if findings is None else findings
    content = {"plan": plan.to_dict(), "findings": kept}
    partial = folder / f".{RECORD_FILE}.part"
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(folder / RECORD_FILE)


def _read(folder: Path) -> dict[str, Any]:
    """A whole record: its plan is one, and it has findings."""
    file = folder / RECORD_FILE
    try:
        content = json.loads(file.read_text())
        TrainingPlan.from_dict(content["plan"])
        return {"plan": content["plan"], "findings": content["findings"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"cannot read how the model was trained from {file}: {reason}; "
            "name a folder that `latentcast model train scenes` wrote"
        ) from error
