"""Scaling laws of finished runs: fit.json, a table, and pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_tools.files.atomic import write_bytes
from fmrifm.scaling.analyse import Scaling, analyse
from fmrifm.scaling.law_figures import draw_iso_flop, draw_scaling
from fmrifm.scaling.law_table import describe
from fmrifm.scaling.points import Point, read_points


def fit_scaling(
    patterns: Sequence[str],
    output: Path,
    checkpoint: str = "auto",
    seed: int = 0,
    title: str = "",
) -> str:
    """Writes fit.json, table.md, scaling.png and, where budgets have several models, iso_flop.png.

    Args:
      patterns, checkpoint: see `read_points`.
      output: directory of what is written.
      seed: of the intervals.

    Returns:
      The text of table.md.

    Raises:
      InputError: see `read_points`; or no size has three levels.
    """
    points = read_points(patterns, checkpoint)
    found = analyse(points, seed)
    text = describe(found, title)
    output.mkdir(parents=True, exist_ok=True)
    fitted = [scaling for scaling in found if scaling.choice]
    iso = [scaling for scaling in found if scaling.iso_flop]
    pictures = ("scaling.png", draw_scaling, fitted), ("iso_flop.png", draw_iso_flop, iso)
    for name, draw, shown in pictures:
        if shown:
            draw(output / name, shown, title)
        else:  # An earlier analysis may have left one.
            (output / name).unlink(missing_ok=True)
    write_bytes(output / "table.md", text.encode())
    write_bytes(output / "fit.json", json.dumps(as_dict(points, found), indent=1).encode())
    return text


def as_dict(points: Sequence[Point], found: Sequence[Scaling]) -> dict[str, Any]:
    """What fit.json holds: fits, the runs of each, budgets, and all points."""
    fits, groups = [], []
    for scaling in found:
        about = {"set": scaling.group.set, "x": scaling.group.x}
        choice = scaling.choice
        groups.append(
            {
                **about,
                "distribution": scaling.distribution,
                "alike": scaling.group.alike,
                "runs": [point.run for point in scaling.group.points],
                "fitted_x": scaling.x.tolist(),
                "fitted_loss": scaling.loss.tolist(),
                "held_out": choice.held_out.tolist() if choice else [],
                **({"iso_flop": scaling.iso_flop.as_dict()} if scaling.iso_flop else {}),
            }
        )
        for law, fit in choice.fits.items() if choice else ():
            fits.append(
                {
                    **about,
                    "law": law,
                    **{"a": fit.a, "b": fit.b, "E": fit.E},
                    "ci": {name: list(interval) for name, interval in fit.intervals().items()},
                    "held_out_error": choice.errors[law],
                    "best": law == choice.best,
                    "n": len(scaling.x),
                }
            )
    told = [asdict(point) for point in points]
    return {"version": 1, "fits": fits, "groups": groups, "points": told}
