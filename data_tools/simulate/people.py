"""Who takes part: age, sex, site, diagnosis, and how much they move.

Sites are dealt like cards from small shuffled decks, apart for women and men, and diagnoses apart
for each site and sex. So they are balanced in any stretch of subjects and go along with nothing
that they are not meant to, and a larger study keeps what a smaller one has.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.simulate.study import Study

DIAGNOSIS_NAMES = ("control", "patient")

# Framewise displacement of adults in a scanner, in mm at a TR of 1 s: median, and the standard
# deviation of its logarithm. Where a diagnosis goes along with motion, patients' is so much higher.
_DISPLACEMENT, _DISPLACEMENT_SPREAD, _DISPLACEMENT_SHIFT = 0.12, 0.35, 0.9

# Where a diagnosis goes along with the site, so many have that of their site for one who has not.
_MOST = 6


@dataclasses.dataclass(frozen=True)
class Person:
    """What the tables of a study say of a subject, and a little more.

    Attributes:
      name: such as "001".
      age: in years.
      sex: "F" or "M".
      site: index from 0.
      diagnosis: "control" or "patient", "" in a study without diagnoses.
      displacement: own mean framewise displacement in mm at a TR of 1 s, roughly.
    """

    name: str
    age: int
    sex: str
    site: int
    diagnosis: str
    displacement: float


def draw_person(study: Study, index: int) -> Person:
    """The subject of a given index, from 0."""
    sex, site, patient = _dealt(study)[index]
    deviation = _DISPLACEMENT_SPREAD * study.rng("displacement", index).standard_normal()
    if study.diagnosis == "motion":
        deviation += _DISPLACEMENT_SHIFT * (patient - 0.5)
    return Person(
        name=f"{index + 1:03d}",
        age=int(subject_rng(study, index).integers(18, 81)),
        sex=sex,
        site=site,
        diagnosis="" if study.diagnosis == "off" else DIAGNOSIS_NAMES[patient],
        displacement=_DISPLACEMENT * float(np.exp(deviation)),
    )


def subject_rng(study: Study, index: int) -> np.random.Generator:
    """The stream of a subject's own randomness; the age is its first number."""
    return study.rng("subject", index)


def site_name(site: int) -> str:
    """What tables call a site."""
    return f"site{site + 1}"


def table_fields(study: Study, person: Person) -> dict[str, int | str]:
    """What the tables of a study tell of a subject, without what it does not have."""
    fields: dict[str, int | str] = {"age": person.age, "sex": person.sex}
    if study.sites > 1:
        fields["site"] = site_name(person.site)
    if person.diagnosis:
        fields["diagnosis"] = person.diagnosis
    return fields


@functools.lru_cache(maxsize=8)
def _dealt(study: Study) -> list[tuple[str, int, bool]]:
    """Sex, site and whether a patient, of every subject."""
    people, dealt = [], collections.Counter()

    def deal(what: str, *whom: str | int, cards: Sequence) -> Any:
        deck, place = divmod(dealt[what, *whom], len(cards))
        dealt[what, *whom] += 1
        return study.rng(what, *whom, deck).permutation(cards)[place]

    for index in range(study.subjects):
        sex = "FM"[(index + study.seed) % 2]  # as many of each in any stretch of subjects
        site = int(deal("sites", sex, cards=range(study.sites)))
        # The first half of the sites sees patients; one in the middle sees as many of each.
        side = study.sites - 1 - 2 * site
        deck = (True, False)
        if study.diagnosis == "site" and side != 0:
            deck = (side > 0,) * _MOST + (side < 0,)
        patient = deal("diagnosis", sex, site, cards=deck)
        people.append((sex, site, bool(patient)))
    return people
