"""Finds the runs of UK Biobank field 32136, a zip a session, and reads them inside the archives.

```
ROOT/**/1000001_32136_2_0.zip                     participant, field, instance (the visit), index
  surf_fMRI/CIFTIs/bb.rfMRI.MNI.MSMAll.dtseries.nii
  surf_fMRI/CIFTIs/bb.tfMRI.MNI.MSMAll.dtseries.nii                        where there was a task
```
"""

import collections
import functools
import os
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import tqdm
from nibabel.cifti2 import Cifti2Image

from data_tools.cifti import cifti_header, cifti_run
from data_tools.releases.archives import read_member
from data_tools.releases.root import nothing_found, open_root
from data_tools.run_files import RunFiles
from data_tools.selection import chooser
from data_tools.surface_run import SurfaceHeader, SurfaceRun, readable

# What was done in the scanner: the task is matching of faces and shapes.
TASKS = {"rfMRI": "rest", "tfMRI": "emotion"}
_NAME = re.compile(r"(?P<subject>\d+)_32136_(?P<session>\d+)_0\.zip")
_FOLDER = "surf_fMRI/CIFTIs"
_TR = 0.735
_NIFTI_HEADER = nibabel.Nifti2Header.sizeof_hdr
# That of 91,282 grayordinates has 2 MB.
_LONGEST_HEADER = 2**26
# Central directories are small and the files many: what takes time is to wait for the disk.
_READERS = 8


def find_ukbb_runs(
    root: str | os.PathLike,
    *,
    modalities: Sequence[str] = tuple(TASKS),
    subjects: str | None = None,
) -> tuple[list[RunFiles], list[str]]:
    """Finds the runs in the archives of a tree.

    An archive that cannot be opened, or has neither series, is listed, and told when it is read.

    Args:
      root: the directory to search.
      modalities: of "rfMRI" and "tfMRI", which to take.
      subjects: which to take, see `selection.chooser`.

    Returns:
      The runs in key order, and remarks on what is missing. Their fields are subject, session (the
      number of the instance), mod and task. Of two archives of one session both are listed.

    Raises:
      InputError: there is no such directory, or no run in it.
    """
    root, take = open_root(root), chooser(subjects)
    archives = [
        (path, match)
        for path in sorted(root.rglob("*_32136_*.zip"))
        if (match := _NAME.fullmatch(path.name)) and take(match["subject"]) and path.is_file()
    ]
    runs, without = [], collections.Counter()
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(_members, (path for path, _ in archives))
        bar = tqdm.tqdm(found, "archives", len(archives), leave=False, unit="zip", delay=1)
        for (path, match), members in zip(archives, bar, strict=True):
            wanted = [pair for pair in members if pair[0] in modalities]
            runs += [_run_files(path, match, *pair) for pair in wanted]
            without.update(set(modalities) - dict(wanted).keys())
    if not runs:
        raise nothing_found(root, f"PARTICIPANT_32136_INSTANCE_0.zip with {_FOLDER} in it")
    remarks = [f"Sessions without {name}: {count}." for name, count in sorted(without.items())]
    return sorted(runs, key=lambda run: (run.key, str(run.path))), remarks


def read_ukbb_run(path: str | os.PathLike, member: str, *, whole: bool = False) -> SurfaceRun:
    """Reads the run that is a member of an archive; see `cifti.cifti_run`.

    Raises:
      InputError: what `archives.read_member` refuses, or the run is damaged.
    """
    data = read_member(path, member)
    with readable(Path(path)):
        return cifti_run(Cifti2Image.from_bytes(data), str(path), whole)


def read_ukbb_header(path: str | os.PathLike, member: str) -> SurfaceHeader:
    """Reads what the header of such a run tells; only that is decompressed.

    Raises:
      InputError: as `read_ukbb_run`.
    """
    start = read_member(path, member, _NIFTI_HEADER)
    with readable(Path(path)):
        n_bytes = int(nibabel.Nifti2Header(start)["vox_offset"])
        start = read_member(path, member, min(n_bytes, _LONGEST_HEADER))
        return cifti_header(Cifti2Image.from_bytes(start), str(path))


def _members(path: Path) -> list[tuple[str, str]]:
    """The modalities in an archive, and their members.

    What should be there and is not is listed too, so that reading it tells.
    """
    expected = {modality: f"{_FOLDER}/bb.{modality}.MNI.MSMAll.dtseries.nii" for modality in TASKS}
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # whatever it is, reading a run of it tells it in one sentence
        return list(expected.items())
    # Archives that were packed again may have folders above.
    members = [
        (modality, name)
        for modality, end in expected.items()
        for name in names
        if f"/{name}".endswith(f"/{end}")
    ]
    return members or list(expected.items())


def _run_files(path: Path, match: re.Match[str], modality: str, member: str) -> RunFiles:
    session = int(match["session"])
    return RunFiles(
        key=f"sub-{match['subject']}_ses-{session}_mod-{modality}",
        path=path,
        fields={
            "subject": match["subject"],
            "session": session,
            "mod": modality,
            "task": TASKS[modality],
        },
        read=functools.partial(read_ukbb_run, member=member),
        read_header=functools.partial(read_ukbb_header, member=member),
        sidecar_tr=_TR,
    )
