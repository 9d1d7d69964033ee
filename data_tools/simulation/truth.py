"""The ground truth of a simulated study: what a perfect analysis of its files would find."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from data_tools.flatmap import fsaverage5_cortex
from data_tools.simulation.brain import (
    activation_patterns,
    draw_group,
    draw_subject,
    mixing_of,
    network_maps,
)
from data_tools.simulation.runs import SHARES
from data_tools.simulation.study import Study

TRUTH_FORMAT = "fmrifm-simulation"
TRUTH_VERSION = 1

# S subjects, K networks, C conditions, X vertices (left then right cortex of fsaverage5).
KEYS = {
    "subject": "(S,) names",
    "split": "(S,) train, val or test; empty in trees",
    "age": "(S,) years",
    "sex": "(S,) F or M",
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


def write_truth(study: Study, directory: Path, split: dict[str, range], kind: str) -> None:
    """Writes `truth.npz`, with the keys of `KEYS`, and `truth.json`, which explains them.

    Own maps and patterns of a subject are not stored, as `brain.draw_subject` gives them
    back from the flags alone.
    """
    group = draw_group(study)
    mixing = mixing_of(group.loadings)
    subjects = [draw_subject(study, index) for index in range(study.subjects)]
    split_of = {index: name for name, indices in split.items() for index in indices}
    arrays = {
        "subject": np.array([subject.name for subject in subjects]),
        "split": np.array([split_of.get(index, "") for index in range(study.subjects)]),
        "age": np.array([subject.age for subject in subjects]),
        "sex": np.array([subject.sex for subject in subjects]),
        "subject_effect": np.array([subject.effect for subject in subjects]),
        "subject_delay": np.array([subject.delay for subject in subjects]),
        "subject_coupling": np.stack([s.mixing @ s.mixing.T for s in subjects]),
        "coupling": mixing @ mixing.T,
        "network_maps": network_maps(group.network_fields),
        "condition": np.array(study.condition_names),
        "condition_patterns": activation_patterns(group.pattern_fields),
        "global_gain": group.global_gain,
        "noise_gain": group.noise_gain,
        "baseline": group.baseline,
        "cortex": np.concatenate(fsaverage5_cortex()),
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
