"""report.html: a cohort's question and answer, for people who do not read results.json."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_tools.files.atomic import write_bytes
from data_tools.reports.page import render_page
from data_tools.timeseries.quality import QC_MEASURES
from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.cohort import Cohort
from fmrifm.probe.cohort.cohort_pictures import draw_brains, draw_curves, draw_scores
from fmrifm.probe.cohort.verdict import chance_level, figure, metric_name, number, outcome, p_text
from fmrifm.probe.results.results import Results

_SCHEMES = {
    "kfold": "{groups} people (or families) were dealt to {n_folds} groups; each group was tested "
    "once with what was learned from the others, and this was done {repeats} times with other "
    "groups.",
    "subject": "Each of {groups} people (or families) was tested once with what was learned from "
    "all others.",
    "site": "Each of {n_folds} sites was tested once with what was learned from the others.",
}
_REMOVALS = {
    "none": "",
    "regress": " What a linear regression on the confounds says of the features was taken out.",
    "combat": " ComBat took out of the features the mean and the spread of each site.",
}
_INTERVALS = {
    "corrected": "by the corrected resampled t-test of Nadeau and Bengio, since folds share most "
    "of those they learn from",
    "subjects": "over resampled people, with predictions as they are",
    "few": "by t over people, with predictions as they are; none where all are equal",
}
_MEANINGS = {  # the first that a name begins with
    "patch_connectome": "which places of the cortex go together in what the model makes of them.",
    "cls_avg_patch": "the model's summary of a clip, and the mean of what it makes of each place.",
    "cls": "the model's summary of a clip, mean over the scan.",
    "avg_patch": "the mean of what the model makes of each place, over cortex and scan.",
    "patch": "what the model makes of each place, mean over the scan.",
    "avg_reg": "the model's registers, mean over the scan.",
    "concat_reg": "the model's registers, mean over the scan.",
    "reg": "the model's registers, mean over the scan.",
    "confounds": "what is known of the scans and the people, without any image.",
    "connectome": "which places of the cortex go together in the images, without any model.",
    "pca": "principal components of the mean of each place, without any model.",
    "input": "the mean of each place, without any model.",
    "none": "always the same answer.",
}


_MOST_LISTED = 200


def write_report(
    path: Path, results: Results, config: ConfigDict, files: ModelFiles, cohort: Cohort
) -> None:
    """Writes the page, with all pictures in it; they lie in figures/ beside it too."""
    figures, samples, rows = path.parent / "figures", cohort.samples, results["results"]
    draw_scores(figures / "scores.png", results)
    first, listed = outcome(results, rows[0]), results["people"][:_MOST_LISTED]
    dropped, more = samples.n_dropped_frames, len(results["people"]) - len(listed)
    with_sites = [row for row in rows if "sites" in outcome(results, row)]
    known = [c for c in results["confounds"] if any(c["name"] in x for x in results["people"])]
    splits = results["splits"]
    page = render_page(
        Path(__file__).with_suffix(".html"),
        results=results,
        figures=figures,
        title=_title(results),
        metric=metric_name(results),
        first=_name(rows[0]),
        grey=[row["baseline"] for row in rows],
        n_people=len(set(samples.subjects.tolist())),
        n_runs=len(set(zip(samples.clips.source, samples.clips.run, strict=True))),
        n_clips=f"{len(samples.clips):,}",
        n_samples=len(samples),
        people=_people(results, cohort),
        left_out=[[x["who"], x["why"]] for x in results["who_was_left_out"]],
        dropped=f"{dropped:,}" if dropped else "",
        second="AUROC" if results["classes"] else "Pearson r",
        scores=[_scores(results, row) for row in rows],
        meanings=[(_name(row), _meaning(row["representation"])) for row in rows],
        versus=[[x, *_difference(results, v)] for x, v in first.get("versus", {}).items()],
        site_names=[_name(row) for row in with_sites],
        sites=_sites(results, with_sites),
        motion=_motion(results),
        spread=[[_name(row), *_spread(outcome(results, row)["seeds"])] for row in rows],
        has_curves=draw_curves(figures / "curves.png", results),
        known=[confound["label"] for confound in known],
        each=[_each(person, known, bool(results["classes"])) for person in listed],
        each_wrong=[bool(results["classes"]) and x["label"] != x["predicted"] for x in listed],
        more=f"{more:,}" if more else "",
        brains=list(draw_brains(figures, files, cohort, config.pictures)),
        scheme=_SCHEMES[splits["scheme"]].format(groups=splits["n_groups"], **splits),
        removal=_REMOVALS[results["config"]["confounds"]["remove"]],
        guess=number(results, chance_level(results)),
        interval=_INTERVALS[first["metrics"][results["metric"]]["interval"]],
        permutations=first["chance"]["permutations"],
        random_splits=rows[0].get("random_splits"),
    )
    write_bytes(path, page.encode())


def _title(results: Results) -> str:
    field = results["target"].rpartition(":")[2].partition(";")[0]
    classes = f" ({', '.join(results['classes'])})" if results["classes"] else ""
    return f"Do brain images tell {field}{classes}?"


def _people(results: Results, cohort: Cohort) -> list[list[Any]]:
    """How many samples each class has, and how each confound goes with the classes."""
    samples, classes = cohort.samples, results["classes"]
    counts = [(samples.labels == name).sum() for name in classes]
    rows = [[f"{results['unit']}s", len(samples), *counts, ""]]
    for confound in results["confounds"]:
        if confound["groups"]:  # restricted ones have none
            cells = [_summary(confound, confound["groups"][name]) for name in ("all", *classes)]
            p = confound["p"]
            rows.append([confound["label"], *cells, "-" if p is None else p_text(p)])
    return rows


def _summary(confound: dict, some: dict) -> str:
    if "counts" in some:
        shown = sorted(some["counts"].items())
        return ", ".join(f"{name or 'unknown'} {n}" for name, n in shown) or "-"
    if some["mean"] is None:
        return "unknown"
    digits = QC_MEASURES[confound["name"]].digits if confound["name"] in QC_MEASURES else 1
    text = f"{some['mean']:,.{digits}f} \u00b1 {some['std']:,.{digits}f}"
    return text + (f" ({some['unknown']} unknown)" if some["unknown"] else "")


def _scores(results: Results, row: dict) -> list[str]:
    """A row of the main table."""
    some, form = outcome(results, row), ".0%" if results["classes"] else ".2f"
    second = some["metrics"].get("auroc" if results["classes"] else "pearson", {})
    chance, permuted = some["chance"], "-"
    if chance["null_mean"] is not None:
        permuted = f"{chance['null_mean']:{form}} ({chance['null_high']:{form}})"
    guesses = (_text(chance[x], form) for x in ("uniform", "majority"))
    about = (_text(second.get("value"), ".2f"), *guesses, permuted, _text(chance["p"]))
    return [_name(row), figure(results, row), *about]


def _text(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _difference(results: Results, v: dict) -> list[str]:
    unit = 100 if results["classes"] else 1
    digits, word = (0, " points") if results["classes"] else (2, "")
    told = [x for x in ("difference", "low", "high") if v[x] is not None]
    value, *ends = (f"{unit * v[x]:+.{digits}f}" for x in told)
    interval = f" ({' to '.join(ends)})" if ends else ""
    return [f"{value}{interval}{word}", f"{v['p']:.3f}"]


def _name(row: dict) -> str:
    names = {"none": "commonest class or mean", "confounds": "confounds alone"}
    return names.get(row["representation"], row["representation"])


def _meaning(representation: str) -> str:
    """What a row is, for people who have not read the docs."""
    name = representation.removeprefix("untrained_")
    text = next((text for start, text in _MEANINGS.items() if name.startswith(start)), "")
    return f"{text} In a model that has learned nothing." if name != representation else text


def _sites(results: Results, methods: list[dict]) -> list[list[Any]]:
    """A row for each site: its people, and the score of each method there."""
    rows = []
    for site, some in outcome(results, results["results"][0]).get("sites", {}).items():
        found = [outcome(results, row)["sites"][site] for row in methods]
        values = [x["value"] for x in found]
        texts = ["one class only" if v is None else number(results, v) for v in values]
        rows.append([site, some["n_subjects"], *texts])
    return rows


def _motion(results: Results) -> list[list[str]]:
    """A row for each method whose predictions were compared with motion."""
    rows = []
    for row in results["results"]:
        if some := outcome(results, row).get("motion"):
            within = "-"
            if "within_rho" in some:
                within = f"{some['within_rho']:+.2f} ({p_text(some['within_p'])})"
            rows.append([_name(row), f"{some['rho']:+.2f} ({p_text(some['p'])})", within])
    return rows


def _spread(seeds: dict) -> list[str]:
    return [_text(seeds[x]) for x in ("seed_std", "partition_std", "sampling_std")]


def _each(person: dict, known: list[dict], has_classes: bool) -> list[str]:
    """A row of the table of people: label, prediction, confounds."""
    if has_classes:
        shares = f"{person['probability']:.0%}", f"{person['right']:.0%} of fits"
        cells = [person["who"], person["label"], person["predicted"], *shares]
    else:
        numbers = (person[x] for x in ("label", "predicted"))
        cells = [person["who"], *(", ".join(f"{v:.3g}" for v in some) for some in numbers)]
    for confound in known:
        value = person.get(confound["name"])
        text = value if isinstance(value, str) else f"{value:.3g}" if value is not None else ""
        cells.append(text)
    return cells
