"""report.html: a cohort's question and answer, for people who do not read results.json."""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from data_tools.timeseries.quality import QC_MEASURES
from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.cohort import Cohort
from fmrifm.probe.cohort.cohort_pictures import draw_brains, draw_curves, draw_scores
from fmrifm.probe.cohort.verdict import chance_level, figure, metric_name, number, outcome, p_text
from fmrifm.probe.results.results import Results
from fmrifm.reporting import Page

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
_MOST_LISTED = 200
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


def write_report(
    path: Path, results: Results, config: ConfigDict, files: ModelFiles, cohort: Cohort
) -> None:
    """Writes the page, with all pictures in it; they lie in figures/ beside it too."""
    figures = path.parent / "figures"
    page = Page(_title(results))
    page.text(results["answer"]["text"], big=True)
    if results["warnings"]:
        page.heading("Before you believe it")
        page.notes(warning["text"] for warning in results["warnings"])
    _add_people(page, results, cohort)
    _add_results(page, results, figures)
    _add_details(page, results)
    if draw_curves(figures / "curves.png", results):
        page.heading("Would more people help?")
        page.picture(
            figures / "curves.png",
            "The same analysis with fewer people to learn from; bands are its repeats. A curve "
            "that still rises at its right end would go on with more people.",
        )
    if results["people"]:
        _add_each(page, results)
    brains = list(draw_brains(figures, files, cohort, config.pictures))
    if brains:
        page.heading("What the model sees")
        page.text(
            "Cortex laid flat, left and right hemisphere, in standard deviations of each place. "
            "The model sees a part of it and predicts the rest. Where predictions look like the "
            "truth, it knows data of this kind; where they do not, expect little of its features."
        )
        for picture, sentence in brains:
            page.picture(picture, sentence)
    _add_method(page, results)
    page.write(path)


def _title(results: Results) -> str:
    field = results["target"].rpartition(":")[2].partition(";")[0]
    if results["classes"]:
        return f"Do brain images tell {field} ({', '.join(results['classes'])})?"
    return f"Do brain images tell {field}?"


def _add_people(page: Page, results: Results, cohort: Cohort) -> None:
    page.heading("Who was in")
    samples = cohort.samples
    people = set(samples.subjects.tolist())
    runs = {*zip(samples.clips.source.tolist(), samples.clips.run.tolist(), strict=True)}
    page.text(
        f"{len(people)} people, {len(runs)} runs, {len(samples.clips):,} clips. What is asked is "
        f"asked of {len(samples)} {results['unit']}s."
    )
    classes = results["classes"]
    header = ["", "all", *classes, "goes along with the answer"]
    counts = [str((samples.labels == name).sum()) for name in classes]
    rows = [[f"{results['unit']}s", str(len(samples)), *counts, ""]]
    for confound in results["confounds"]:
        if not confound["groups"]:  # restricted
            continue
        cells = [_summary(confound, confound["groups"][name]) for name in ("all", *classes)]
        p = confound["p"]
        told = "-" if p is None else p_text(p)
        rows.append([confound["label"], *cells, told])
    page.table(header, rows, [False] * len(rows))
    page.heading("Who was left out, and why")
    left = results["who_was_left_out"]
    if left:
        page.table(
            ["run or person", "why"], [[x["who"], x["why"]] for x in left], [False] * len(left)
        )
    else:
        page.text("Nobody.")
    if dropped := samples.n_dropped_frames:
        page.text(
            f"{dropped:,} frames that fill no clip, or lie between chosen ones, were not used."
        )


def _summary(confound: dict, some: dict) -> str:
    if "counts" in some:
        shown = sorted(some["counts"].items())
        return ", ".join(f"{name or 'unknown'} {n}" for name, n in shown) or "-"
    if some["mean"] is None:
        return "unknown"
    digits = QC_MEASURES[confound["name"]].digits if confound["name"] in QC_MEASURES else 1
    text = f"{some['mean']:,.{digits}f} \u00b1 {some['std']:,.{digits}f}"
    return text + (f" ({some['unknown']} unknown)" if some["unknown"] else "")


def _add_results(page: Page, results: Results, figures: Path) -> None:
    page.heading("What was found")
    draw_scores(figures / "scores.png", results)
    page.picture(
        figures / "scores.png",
        "Red: the model. Grey: what simple methods find in the same people, confounds without any "
        "image among them.",
    )
    header = ["", f"{metric_name(results)} (95 % interval)"]
    header += ["AUROC"] if results["classes"] else ["Pearson r"]
    header += ["by chance: guess", "commonest", "permuted (95th percentile)", "p"]
    rows = []
    for row in results["results"]:
        some = outcome(results, row)
        second = some["metrics"].get("auroc" if results["classes"] else "pearson")
        chance = some["chance"]
        permuted = "-"
        if chance["null_mean"] is not None:
            mean, high = (number(results, chance[x]) for x in ("null_mean", "null_high"))
            permuted = f"{mean} ({high})"
        uniform = "-" if chance["uniform"] is None else number(results, chance["uniform"])
        rows.append(
            [
                _name(row),
                figure(results, row),
                f"{second['value']:.2f}" if second else "-",
                uniform,
                number(results, chance["majority"]),
                permuted,
                "-" if chance["p"] is None else f"{chance['p']:.3f}",
            ]
        )
    page.table(header, rows, [row["baseline"] for row in results["results"]])
    for row in results["results"]:
        page.text(f"{_name(row)}: {_meaning(row['representation'])}")
    versus = outcome(results, results["results"][0]).get("versus", {})
    if versus:
        rows = [[name, *_difference(results, v)] for name, v in versus.items()]
        page.text(f"By how much {_name(results['results'][0])} is better than each of the others:")
        page.table(["than", "difference (95 % interval)", "p"], rows, [False] * len(rows))


def _difference(results: Results, v: dict) -> list[str]:
    unit = 100 if results["classes"] else 1
    digits, word = (0, " points") if results["classes"] else (2, "")
    value, low, high = (f"{unit * v[x]:+.{digits}f}" for x in ("difference", "low", "high"))
    return [f"{value} ({low} to {high}){word}", f"{v['p']:.3f}"]


def _name(row: dict) -> str:
    names = {"none": "commonest class or mean", "confounds": "confounds alone"}
    return names.get(row["representation"], row["representation"])


def _meaning(representation: str) -> str:
    """What a row is, for people who have not read the docs."""
    name = representation.removeprefix("untrained_")
    text = next((text for start, text in _MEANINGS.items() if name.startswith(start)), "")
    return f"{text} In a model that has learned nothing." if name != representation else text


def _add_details(page: Page, results: Results) -> None:
    first = outcome(results, results["results"][0])
    if sites := first.get("sites"):
        page.heading("Site by site")
        names = [row for row in results["results"] if "sites" in outcome(results, row)]
        rows = []
        for site, some in sites.items():
            cells = [outcome(results, row)["sites"][site]["value"] for row in names]
            texts = ["one class only" if c is None else number(results, c) for c in cells]
            rows.append([site, some["n_subjects"], *texts])
        page.table(["site", "people", *map(_name, names)], rows, [False] * len(rows))
    if any(outcome(results, row).get("motion") for row in results["results"]):
        page.heading("Does it follow motion?")
        page.text(
            "Rank correlation of what is predicted with mean framewise displacement, over people. "
            "Far from zero, predictions may be of motion."
        )
        rows = []
        for row in results["results"]:
            if some := outcome(results, row).get("motion"):
                within = "-"
                if "within_rho" in some:
                    within = f"{some['within_rho']:+.2f} ({p_text(some['within_p'])})"
                rows.append([_name(row), f"{some['rho']:+.2f} ({p_text(some['p'])})", within])
        page.table(["", "over all people", "within classes"], rows, [False] * len(rows))
    spread = [[_name(row), *_spread(outcome(results, row)["seeds"])] for row in results["results"]]
    page.heading("How steady is it?")
    page.text(
        "Standard deviations of the score: from another seed with the same folds, from other "
        "folds, and, far larger as a rule, from other people."
    )
    page.table(
        ["", "seed", "folds", "people"], spread, [row["baseline"] for row in results["results"]]
    )


def _spread(seeds: dict) -> list[str]:
    values = (seeds[x] for x in ("seed_std", "partition_std", "sampling_std"))
    return ["-" if v is None else f"{v:.3f}" for v in values]


def _add_each(page: Page, results: Results) -> None:
    page.heading("One by one")
    page.text(
        f"What {_name(results['results'][0])} says of each of them, by models that have never seen "
        "them. It is no diagnosis."
    )
    known = [c for c in results["confounds"] if any(c["name"] in x for x in results["people"])]
    if results["classes"]:
        header = ["", "is", "taken for", "probability of what it is", "right in"]
    else:
        header = ["", "is", "predicted"]
    header += [c["label"] for c in known]
    shown = results["people"][:_MOST_LISTED]
    rows = [[*_verdict(x, results), *_values(x, known)] for x in shown]
    wrong = [bool(results["classes"]) and x["label"] != x["predicted"] for x in shown]
    page.table(header, rows, wrong)
    if more := len(results["people"]) - len(shown):
        page.text(f"{more:,} more are in results.json.")
    if results["classes"]:
        page.text("Grey: taken for another class.")


def _verdict(person: dict, results: Results) -> list[str]:
    if not results["classes"]:
        texts = (", ".join(f"{v:.3g}" for v in person[x]) for x in ("label", "predicted"))
        return [person["who"], *texts]
    share = f"{person['right']:.0%} of fits"
    return [
        person["who"], person["label"], person["predicted"], f"{person['probability']:.0%}", share,
    ]  # fmt: skip


def _values(person: dict, known: list[dict]) -> Iterator[str]:
    for confound in known:
        value = person.get(confound["name"])
        yield "" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def _add_method(page: Page, results: Results) -> None:
    page.heading("How it was done")
    splits, config = results["splits"], results["config"]
    scheme = _SCHEMES[splits["scheme"]].format(groups=splits["n_groups"], **splits)
    page.text(
        f"{scheme} Nobody is ever in both, however often they were scanned, and all that is "
        "fitted, scaling and penalties included, is fitted to those learned from."
        + _REMOVALS[config["confounds"]["remove"]]
    )
    some = outcome(results, results["results"][0])
    kind = some["metrics"][results["metric"]]["interval"]
    interval = {
        "corrected": "by the corrected resampled t-test of Nadeau and Bengio, since folds share "
        "most of those they learn from",
        "subjects": "over resampled people, with predictions as they are",
    }[kind]
    permuted = some["chance"]["permutations"]
    page.text(
        f"A guess reaches {number(results, chance_level(results))} {metric_name(results)}. "
        f"Intervals are {interval}. "
        + (
            f"p is the share of {permuted} analyses of exchanged labels that do as well, each done "
            "anew from the first step to the last. "
            if permuted
            else ""
        )
        + "The first row was chosen before anything was seen; all others are there to compare."
    )
    if "random_splits" in results["results"][0]:
        row = results["results"][0]["random_splits"]
        page.text(
            f"On {row['n']} random splits row by row, which may have one person on both sides and "
            f"are no measure of other people, accuracy is {row['accuracy']['mean']:.0%} \u00b1 "
            f"{row['accuracy']['std']:.0%}."
        )
    page.text(
        f"Model: {results['model']}" + (f", step {results['step']:,}" if results["step"] else "")
    )
