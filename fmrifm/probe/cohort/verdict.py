"""What a cohort's results come to, in plain words, and what speaks against them."""

from collections.abc import Iterator

from fmrifm.probe.results.results import Results

_SIGNIFICANT = 0.05
_SMALL = 25  # people of a class, below which a score says little
_UNEVEN = 2.0  # times as many of one class as of another
_FEW_SITES = 5
FOUND, PARTLY, CONFOUNDED, CHANCE = "found", "partly", "confounded", "chance"
UNCLEAR = "unclear"
# From which on a result is of use: of the way from a guess to perfection, or r2.
_USEFUL, _USEFUL_R2 = 0.4, 0.1


def metric_name(results: Results) -> str:
    """The main metric as people call it."""
    return results["metric"].replace("_", " ")


def number(results: Results, value: float) -> str:
    """A value of the main metric: a share in percent, r2 as it is."""
    return f"{value:.0%}" if results["classes"] else f"{value:.2f}"


def outcome(results: Results, row: dict) -> dict:
    """The results of a row on the cohort."""
    return row["splits"][results["splits"]["scheme"]]


def figure(results: Results, row: dict) -> str:
    """Such as "72% (58% to 86%)", of too few people "72% (no interval)"."""
    some = outcome(results, row)["metrics"][results["metric"]]
    if some["low"] is None:
        return f"{number(results, some['value'])} (no interval)"
    value, low, high = (number(results, some[x]) for x in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def chance_level(results: Results) -> float:
    """The main metric of a guess without looking."""
    return 1 / len(results["classes"]) if results["classes"] else 0.0


def is_found(results: Results, row: dict) -> bool:
    """Whether a row is above chance: by permutations, or by its interval where there are none."""
    some = outcome(results, row)
    if row["head"] == "majority":
        return False
    if some["chance"]["p"] is not None:
        return some["chance"]["p"] < _SIGNIFICANT
    low = some["metrics"][results["metric"]]["low"]
    return low is not None and low > chance_level(results)


def useful_level(results: Results) -> float:
    """The least value of the main metric that would be of use, 70 % of two classes."""
    chance = chance_level(results)
    return chance + _USEFUL * (1 - chance) if results["classes"] else _USEFUL_R2


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def find_row(results: Results, name: str) -> dict | None:
    """The first row whose representation begins with a name."""
    return next((x for x in results["results"] if x["representation"].startswith(name)), None)


def answer(results: Results) -> dict[str, str]:
    """The answer of the first row to the question.

    Returns:
      {"verdict", "text"}: "found"; "chance"; "unclear", where the row is not above chance but its
      interval holds values of use; "confounded", where the confounds alone do as well; "partly",
      where they are above chance and the model is better.
    """
    row, confounds = results["results"][0], find_row(results, "confounds")
    some = outcome(results, row)
    what = _question(results)
    scored = f"{metric_name(results)} {figure(results, row)}"
    if some["chance"]["p"] is not None:
        scored += f", {p_text(some['chance']['p'])}"
    scored += f"; a guess reaches {number(results, chance_level(results))}"
    if results["config"]["confounds"]["remove"] != "none":
        scored += "; what confounds explain had been taken out of its features"
    if not is_found(results, row):
        high = some["metrics"][results["metric"]]["high"]
        useful = number(results, useful_level(results))
        if high is None or high >= useful_level(results):
            verdict = UNCLEAR
            text = (
                f"No evidence either way. From {row['representation']} the model is not shown to "
                f"tell {what}: {scored}. Values of {useful} and above, which would be of use, are "
                "not ruled out: ask more people."
            )
        else:
            verdict = CHANCE
            text = (
                f"No. From {row['representation']} the model does not tell {what}: {scored}. The "
                f"interval rules out values of {useful} and above, which would be of use."
            )
        return {"verdict": verdict, "text": " ".join([text, *_others(results, confounds)])}
    if confounds is None or not is_found(results, confounds):
        text = f"Yes. From {row['representation']} the model tells {what}: {scored}."
        if confounds is not None:
            text += f" Confounds alone do not: {figure(results, confounds)}."
        else:
            text += " Whether confounds alone do, could not be tested."
        if simple := _as_good(results, some):
            text += f" It is not shown to do better than {simple}, which needs no model."
        return {"verdict": FOUND, "text": text}
    alone = f"confounds alone tell {what} too, without any image: {figure(results, confounds)}"
    alone += _within_sites(results, some)
    if _is_better(some, confounds):
        text = (
            f"Partly. From {row['representation']} the model tells {what}: {scored}. But {alone}; "
            "the model does better than they do, and may use them all the same."
        )
        return {"verdict": PARTLY, "text": text}
    text = (
        f"This cannot be told. From {row['representation']} the model seems to tell {what}: "
        f"{scored}. But {alone}, and the model is not shown to do better than they do. This is no "
        "evidence of a difference in the brain."
    )
    return {"verdict": CONFOUNDED, "text": text}


def _within_sites(results: Results, some: dict) -> str:
    """The first row's results where the site can be of no help, if sites go with the answer."""
    sites = {k: v["value"] for k, v in some.get("sites", {}).items() if v["value"] is not None}
    site = results["config"]["confounds"]["site"]
    p = next((c["p"] for c in results["confounds"] if c["name"] == site), None)
    if not sites or p is None or p >= _SIGNIFICANT:
        return ""
    told = ", ".join(f"{number(results, value)} at {name}" for name, value in sites.items())
    return f" (within a single {site} the model reaches {told})"


def find_warnings(results: Results) -> list[dict[str, str]]:
    """What speaks against taking the results at their word: {"kind", "text"}, the gravest first."""
    found = [*_about_confounds(results), *_about_size(results), *_about_pretraining(results)]
    return [{"kind": kind, "text": text} for kind, text in found]


def _question(results: Results) -> str:
    classes = results["classes"]
    if not classes:
        return results["target"].rpartition(":")[2]
    return " from ".join(classes) if len(classes) == 2 else f"these {len(classes)} classes apart"


def _is_better(some: dict, other: dict) -> bool:
    versus = some["versus"][f"{other['representation']}/{other['head']}"]
    return versus["difference"] > 0 and versus["p"] < _SIGNIFICANT


def _as_good(results: Results, some: dict) -> str:
    """The best of the simple methods that the first row is not better than, with its figure."""
    rows = [
        row
        for row in results["results"]
        if row["representation"].startswith(("connectome", "pca", "input"))
        and not _is_better(some, row)
    ]
    value = [outcome(results, row)["metrics"][results["metric"]]["value"] for row in rows]
    if not rows:
        return ""
    best = rows[value.index(max(value))]
    return f"{best['representation']} ({figure(results, best)})"


def _others(results: Results, confounds: dict | None) -> Iterator[str]:
    """What else finds something where the first row does not."""
    rest = [x for x in results["results"][1:] if x is not confounds and is_found(results, x)]
    if rest:
        told = ", ".join(f"{x['representation']} ({figure(results, x)})" for x in rest)
        yield (
            f"Above chance were {told}: of several that were tried, so ask it again of other "
            "people before you believe it."
        )
    if confounds is not None and is_found(results, confounds):
        yield f"Confounds alone are above chance: {figure(results, confounds)}."


def _about_pretraining(results: Results) -> Iterator[tuple[str, str]]:
    first = outcome(results, results["results"][0])
    if seen := first["seen_in_pretraining"]:
        yield (
            "seen",
            f"{seen} of {first['n_subjects']} people were in the data that the model was trained "
            "on (without their labels): scores of others may be lower.",
        )
    if seen is None:
        yield (
            "seen",
            "It is not known whom this model was trained on: people of this cohort may be among "
            "them.",
        )


def _about_confounds(results: Results) -> Iterator[tuple[str, str]]:
    row, confounds = results["results"][0], find_row(results, "confounds")
    known = {c["name"]: c for c in results["confounds"]}
    if confounds is not None and is_found(results, confounds):
        guilty = [c for c in known.values() if c["p"] is not None and c["p"] < _SIGNIFICANT]
        names = ", ".join(f"{c['label']} ({p_text(c['p'])})" for c in guilty) or "in combination"
        text = (
            f"Without any image, what is known of the scans and the people tells "
            f"{_question(results)}: {figure(results, confounds)}. What goes along with it: {names}."
        )
        if not _is_better(outcome(results, row), confounds):
            text += (
                " The model does no better, so its result may be nothing but that. Match the "
                "groups, or leave out who cannot be matched, and ask again."
            )
        yield "confounds", text
    motion = outcome(results, row).get("motion")
    if motion and min(motion["p"], motion.get("within_p", 1.0)) < _SIGNIFICANT:
        inside = (
            f"; within the groups {motion['within_rho']:+.2f} ({p_text(motion['within_p'])})"
            if "within_rho" in motion
            else ""
        )
        yield (
            "motion",
            f"What the model says goes along with how much people moved: rank correlation "
            f"{motion['rho']:+.2f} ({p_text(motion['p'])}){inside}.",
        )
    asked = results["config"]["confounds"]["fields"]
    target = results["target"].rpartition(":")[2].partition(";")[0]
    if unknown := [name for name in asked if name not in known and name != target]:
        yield (
            "unknown",
            f"Nothing is known of {', '.join(unknown)}: whether they explain the result could not "
            "be checked. Add them to participants.tsv, or give confounds.table.",
        )


def _about_size(results: Results) -> Iterator[tuple[str, str]]:
    splits, config = results["splits"], results["config"]
    first = outcome(results, results["results"][0])
    counts = splits["people"]  # of each class; of a state, all people have each
    rarest = min(counts, key=counts.get)
    if counts[rarest] < _SMALL:
        of = f" of class '{rarest}'" if results["classes"] else ""
        text = f"There are {counts[rarest]} people{of}: few to say anything of others."
        if first["chance"]["null_high"] is not None:
            text += (
                f" Of such a cohort one analysis in twenty reaches "
                f"{number(results, first['chance']['null_high'])} where there is nothing to find."
            )
        yield "size", text
    if results["classes"] and max(counts.values()) > _UNEVEN * counts[rarest]:
        commonest = max(counts, key=counts.get)
        share = counts[commonest] / sum(counts.values())
        yield (
            "balance",
            f"Classes are uneven: always saying '{commonest}' is right in {share:.0%}. Look at "
            "balanced accuracy, not at accuracy.",
        )
    if splits["scheme"] == "kfold" and splits["n_folds"] < config["splits"]["folds"]:
        yield (
            "folds",
            f"There are {splits['n_folds']} folds, not {config['splits']['folds']}: there are no "
            "more people to be dealt.",
        )
    if splits["scheme"] == "site" and splits["n_folds"] < _FEW_SITES:
        yield (
            "sites",
            f"{splits['n_folds']} sites were left out one at a time: so few say little of other "
            "sites.",
        )
    alone = [
        site
        for site, some in first.get("sites", {}).items()
        if some["value"] is None and results["classes"]
    ]
    if alone:
        yield (
            "site_of_one_class",
            f"At {', '.join(alone)} all people are of one class: nothing tells the class from the "
            "site there.",
        )
