"""Pictures of a cohort's report: scores, learning curves, and reconstructed brains."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from data_tools.reports.figures import new_figure, save_figure
from fmrifm.input.pipeline import EvalBatches
from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.cohort import Cohort
from fmrifm.probe.cohort.verdict import chance_level, metric_name, outcome
from fmrifm.probe.features.clip_encoder import ClipEncoder
from fmrifm.probe.results.results import Results
from fmrifm.trainer.evaluate import draw_reconstruction
from fmrifm.trainer.step import Task, make_reconstruct

_MODEL, _BASELINE, _CHANCE = "#b2182b", "0.6", "#2166ac"


def draw_scores(path: Path, results: Results) -> None:
    """The main metric of every row with its interval, and what permuted labels reach."""
    rows, metric = results["results"][::-1], results["metric"]
    figure = new_figure(7.5, 0.5 * len(rows) + 1.2)
    axis = figure.subplots()
    for place, row in enumerate(rows):
        some = outcome(results, row)
        v, chance = some["metrics"][metric], some["chance"]
        color = _BASELINE if row["baseline"] else _MODEL
        if chance["null_high"] is not None:
            null = [chance["null_mean"], chance["null_high"]]
            axis.plot(
                null, [place - 0.2] * 2, color=_CHANCE, lw=5, alpha=0.35, solid_capstyle="butt"
            )
        axis.plot([v["low"], v["high"]], [place, place], color=color, lw=2)
        axis.plot(v["value"], place, "o", color=color)
    axis.axvline(chance_level(results), ls="--", color=_CHANCE, lw=1)
    axis.set_yticks(range(len(rows)), [row["representation"] for row in rows])
    axis.set_xlabel(
        f"{metric_name(results)}, 95 % interval; dashed: a guess\nblue: the same analysis of "
        "exchanged labels, from its mean to its 95th percentile"
    )
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_curves(path: Path, results: Results) -> bool:
    """The main metric by how many people were learned from; False where there is no curve."""
    curves = {
        row["representation"]: (row["baseline"], outcome(results, row).get("curve") or [])
        for row in results["results"]
    }
    curves = {name: some for name, some in curves.items() if len(some[1]) > 1}
    if not curves:
        return False
    figure = new_figure(7.5, 3.4)
    axis = figure.subplots()
    styles = iter(["-", "--", "-.", ":"] * len(curves))
    for name, (is_baseline, points) in curves.items():
        n = [point["n_subjects"] for point in points]
        color, style = _BASELINE if is_baseline else _MODEL, next(styles)
        axis.plot(n, [x["value"] for x in points], "o", ls=style, color=color, label=name)
        low, high = ([x[side] for x in points] for side in ("low", "high"))
        axis.fill_between(n, low, high, color=color, alpha=0.15, lw=0)
    axis.axhline(chance_level(results), ls="--", color=_CHANCE, lw=1)
    axis.set(xlabel="people learned from", ylabel=metric_name(results))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
    return True


def draw_brains(folder: Path, files: ModelFiles, cohort: Cohort, n: int) -> Iterator[tuple]:
    """Draws what the model saw, predicted, and what was there, of a clip of some samples.

    Yields:
      The path of each picture and a sentence on it; nothing of a model without a decoder.
    """
    samples, options = cohort.samples, files.options
    middle_S = (samples.first_S1[:-1] + samples.first_S1[1:] - 1) // 2
    middle_S = middle_S[samples.n_frames_C[middle_S] == options.num_frames]
    if options.decoding == "none" or not n or not len(middle_S):
        return
    encoder = ClipEncoder(files, cohort.sources, cohort.splits.geometry)
    tokenizer, reader = encoder.tokenizer, encoder.reader
    reconstruct = jax.jit(make_reconstruct(Task(tokenizer, encoder.objective)))
    spread = np.unique(np.linspace(0, len(middle_S) - 1, n).round().astype(int))
    batches = EvalBatches(reader, cohort.sources, samples.clips[middle_S[spread]], 1, np.arange(1))
    for k in range(len(batches)):
        found = jax.device_get(reconstruct(files.params, batches[k]))
        clip = batches.clips[k]
        key = cohort.sources[clip.source].store.runs[clip.run]["key"]
        path = folder / f"reconstruction_{k}.png"
        title = f"{key}, frames from {clip.start}"
        draw_reconstruction(path, tokenizer.geometry, {x: v[0] for x, v in found.items()}, title)
        yield path, f"{key}: what the model saw, what it predicted, and what was there."
