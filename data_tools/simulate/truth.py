"""The ground truth of a simulated study: what a perfect analysis of its files would find."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.simulate.brain import (
    activation_patterns,
    cortex,
    draw_group,
    draw_traits,
    mixing_of,
    network_maps,
)
from data_tools.simulate.people import draw_person, site_name
from data_tools.simulate.runs import SHARES
from data_tools.simulate.study import Study

TRUTH_FORMAT = "fmrifm-simulation"
TRUTH_VERSION = 1

# S subjects, K networks, C conditions, X vertices (left then right cortex of fsaverage5).
KEYS = {
    "subject": "(S,) names",
    "split": "(S,) train, val or test; empty in trees",
    "age": "(S,) years",
    "sex": "(S,) F or M",
    "site": "(S,) site1, site2 ...",
    "diagnosis": "(S,) control or patient; empty in studies without",
    "displacement": "(S,) own mean framewise displacement in mm at a TR of 1 s, roughly",
    "subject_effect": "(S,) strength of own evoked responses; the study's effect multiplies it",
    "subject_delay": "(S,) seconds by which own evoked responses come late",
    "subject_coupling": "(S, K, K) own correlations of network time courses: the fingerprint",
    "coupling": "(K, K) correlations of network time courses of the group",
    "network_maps": "(K, X) weights of the networks in the group, unit norm at each vertex",
    "condition": "(C,) trial_type of each condition",
    "condition_patterns": "(C, X) activation of the group, near 1 where strongest",
    "global_gain": "(X,) weight of the global signal",
    "noise_gain": "(X,) relative strength of noise",
    "baseline": "(X,) mean image in scanner units",
    "cortex": "(X,) bool, false on the medial wall, where files hold zeros",
}


def write_truth(
    directory: Path,
    study: Study,
    kind: str,
    *,
    names: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
) -> None:
    """Writes `truth.npz`, with the keys of `KEYS`, and `truth.json`, which explains them.

    Own maps and patterns of a subject are not stored, as `brain.draw_subject` gives them back from
    the flags alone. `kind` is the format of the files of the study, `names` are what they call each
    subject (None for their own names), and `split` is that of each subject, in stores.
    """
    group = draw_group(study)
    mixing = mixing_of(group.loadings)
    people = [draw_person(study, index) for index in range(study.subjects)]
    traits = [draw_traits(study, index) for index in range(study.subjects)]
    arrays = {
        "subject": np.array(names or [person.name for person in people]),
        "split": np.array(split or [""] * study.subjects),
        "age": np.array([person.age for person in people]),
        "sex": np.array([person.sex for person in people]),
        "site": np.array([site_name(person.site) for person in people]),
        "diagnosis": np.array([person.diagnosis for person in people]),
        "displacement": np.array([person.displacement for person in people]),
        "subject_effect": np.array([own.effect for own in traits]),
        "subject_delay": np.array([own.delay for own in traits]),
        "subject_coupling": np.stack([own.mixing @ own.mixing.T for own in traits]),
        "coupling": mixing @ mixing.T,
        "network_maps": network_maps(group.network_fields),
        "condition": np.array(study.condition_names),
        "condition_patterns": activation_patterns(group.pattern_fields),
        "global_gain": group.global_gain,
        "noise_gain": group.noise_gain,
        "baseline": group.baseline,
        "cortex": cortex(),
    }
    with (directory / "truth.npz").open("wb") as file:
        np.savez_compressed(file, **{name: arrays[name] for name in KEYS})
    text = {
        "format": TRUTH_FORMAT,
        "version": TRUTH_VERSION,
        "kind": kind,
        "study": dataclasses.asdict(study),
        "variance_shares": SHARES,
        "arrays": KEYS,
    }
    (directory / "truth.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
