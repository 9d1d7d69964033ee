"""Training, validation and test sets of a probe: opened, checked, and labelled."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.overlap import Overlap, check_overlap, describe_twins
from data_tools.spaces.geometry import Geometry
from data_tools.store.selection import field_names, split_name
from fmrifm.input.sources import Source, parse_named_sources, parse_sources, union_geometry
from fmrifm.probe.samples.labels import Binning, Target, join_people, parse_target
from fmrifm.probe.samples.samples import Samples, make_samples
from fmrifm.probe.scores.metrics import class_numbers

# Names of splits of published datasets that are for choosing hyperparameters.
_VALIDATION = ("validation", "val")
# What is compared between splits where runs or events tell it, besides what must not be shared.
_COUNTED = ("subject", "family", "session", "site", "nsd_id")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Sources, samples and targets by the name of their split; "train" and "val" come first.

    Attributes:
      sources: the stores of each.
      samples: the samples of each, labelled with the names of classes, or with values.
      classes: (K,) str, all that labels can be; None in regression.
      overlaps: what the splits share.
      whole: samples with all clips of a single set, which are encoded in place of its own, so that
        cached features stay valid when labels come, go or change.
    """

    sources: dict[str, list[Source]]
    samples: dict[str, Samples]
    classes: np.ndarray | None
    overlaps: list[Overlap]
    whole: Samples | None = None

    @property
    def tests(self) -> list[str]:
        """The names of the test splits; a single set is all tested."""
        names = list(self.sources)
        return names[2:] or names

    @property
    def all_sources(self) -> list[Source]:
        """The sources of all sets."""
        return [source for some in self.sources.values() for source in some]

    @functools.cached_property
    def geometry(self) -> Geometry:
        """Every pixel of any of them: so that a token is the same place in all."""
        return union_geometry(self.all_sources)

    @property
    def datasets(self) -> str:
        """The names of the datasets of the test splits, a + between them."""
        sources = [source for name in self.tests for source in self.sources[name]]
        names = {str(run["dataset"]) for source in sources for run in source.lines}
        return "+".join(sorted(names))

    @property
    def n_out(self) -> int:
        """Number of classes, or of columns of the targets."""
        if self.classes is None:
            return self.samples["train"].labels.shape[1]
        return len(self.classes)

    def name(self, values_SxK: np.ndarray) -> np.ndarray:
        """(S,) the most probable classes by name; values of a regression as they are."""
        return values_SxK if self.classes is None else self.classes[values_SxK.argmax(1)]

    def targets(self, name: str) -> np.ndarray:
        """(S,) int, the places of a split's labels among the classes; or (S, E) float32."""
        labels = self.samples[name].labels
        return labels if self.classes is None else class_numbers(labels, self.classes)


def open_splits(config: ConfigDict, num_frames: int) -> Splits:
    """The splits of a probe's config."""
    sources = open_sources(config.data)
    samples, classes = label_samples(sources, config, num_frames)
    runs = [run for some in sources.values() for source in some for run in source.lines]
    events = [event for run in runs for event in run.get("events") or []]
    known, refused = {*field_names(runs), *field_names(events)}, tuple(config.leak_keys)
    counted = [field for field in _COUNTED if field in known and field not in refused]
    overlaps = check_overlap(sources, refused, counted)
    for warning in describe_twins(overlaps):
        print(warning)
    return Splits(sources, samples, classes, overlaps)


def label_samples(
    sources: dict[str, list[Source]], config: ConfigDict, num_frames: int, windows: int = 0
) -> tuple[dict[str, Samples], np.ndarray | None]:
    """The labelled samples of each set; and (K,) the classes, None in regression.

    Args:
      sources: by set; classes and quantiles are those of the first.
      config: with target, unit, task, bins, quantiles and data.hrf_delay of a probe.
      windows: at most so many of a run; 0 for all.
    """
    target, first = parse_target(config.target), next(iter(sources))
    if target.table is not None:
        target = join_table([source for some in sources.values() for source in some], target)
    binned = len(config.bins) > 0 or config.quantiles != 0
    if binned and config.task == "regression":
        raise InputError("bins and quantiles make classes: set task=classification, or no bins.")
    samples = {
        name: make_samples(
            some,
            target,
            unit=config.unit,
            num_frames=num_frames,
            hrf_delay=config.data.hrf_delay,
            task="regression" if binned else config.task,
            windows=windows,
        )
        for name, some in sources.items()
    }
    if binned:
        bins = Binning(tuple(config.bins), config.quantiles).fit(samples[first].labels)
        samples = {
            name: dataclasses.replace(some, labels=bins.cut(some.labels))
            for name, some in samples.items()
        }
    if config.task == "regression":
        return samples, None
    return samples, _classes(samples, target, bins if binned else target)


def open_sources(data: ConfigDict) -> dict[str, list[Source]]:
    """The sources of "train", "val" and the test splits, as the config or a folder names them."""
    train, val, test = data.train, data.val, data.test
    others = []
    if data.folder:
        folder = Path(data.folder)
        names = sorted(path.parent.name for path in folder.glob("*/store.json"))
        held = next((name for name in _VALIDATION if name in names), None)
        if "train" not in names or held is None:
            raise InputError(
                f"{folder} holds no stores train and validation: import a dataset there, or set "
                "data.train, data.val and data.test."
            )
        train, val = train or f"{folder}/train", val or f"{folder}/{held}"
        others = [name for name in names if name not in ("train", held)]
    if not (train and val and (test or others)):
        raise InputError("A probe needs data.train, data.val and data.test: set them to stores.")
    if test:
        is_named = split_name(test.split(",")[0])[0] is not None
        tests = parse_named_sources(test) if is_named else {"test": parse_sources(test)}
    else:
        tests = {name: parse_sources(f"{folder}/{name}") for name in others}
    if taken := {"train", "val"} & tests.keys():
        raise InputError(f"A test split is called '{taken.pop()}': give it another name.")
    return {"train": parse_sources(train), "val": parse_sources(val), **tests}


def join_table(sources: list[Source], target: Target, most_lost: float = 0.5) -> Target:
    """`join_people` for the runs of sources; names stay hidden where a store says so."""
    runs = [run for source in sources for run in source.lines]
    show = not any("subject" in source.store.restricted for source in sources)
    return join_people(runs, target, show, most_lost)


def _classes(samples: dict[str, Samples], target: Target, order: Target | Binning) -> np.ndarray:
    """The classes of the first set, in order; others must not have more."""
    first = next(iter(samples))
    classes = order.order(samples[first].labels.tolist())
    if len(classes) < 2:
        raise InputError(f"{target.text} has one class only in {first}: choose another target.")
    for name, some in samples.items():
        if strange := sorted(set(some.labels.tolist()) - set(classes)):
            fix = "filter it"
            if target.kind == "run" and target.field == "subject":
                fix = "make train, val and test of runs of the same people, with '?run=01' or so"
            raise InputError(f"{target.text} '{strange[0]}' is in {name} and not in train: {fix}.")
    return np.array(classes)
