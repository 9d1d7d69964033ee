"""Finds the runs of UK Biobank field 32136, a zip a session, and reads them inside the archives.

```
ROOT/**/1000001_32136_2_0.zip                     participant, field, instance (the visit), index
  surf_fMRI/CIFTIs/bb.rfMRI.MNI.MSMAll.dtseries.nii
  surf_fMRI/CIFTIs/bb.tfMRI.MNI.MSMAll.dtseries.nii                        where there was a task
```
"""

import collections
import functools
import io
import os
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tqdm

from data_tools.convert.raw_run import RunFiles, nothing_found, open_root
from data_tools.errors import InputError
from data_tools.readers.cifti import cifti_header, cifti_run, unpack_cifti
from data_tools.readers.surface_run import SurfaceHeader, SurfaceRun, readable
from data_tools.store.selection import Chooser

# Far above a dense time series of an hour; deflate itself packs at most 1,032 bytes into one.
_LARGEST = 4 * 2**30
_HIGHEST_RATIO = 1000
_ENCRYPTED = 0x1
_BLOCK = 2**20


def read_member(path: str | os.PathLike, name: str, n_bytes: int | None = None) -> bytes:
    """The bytes of a file in an archive, or the first of them; all are verified by their checksum.

    Raises:
      InputError: the archive is missing, truncated or no zip, has names that lead out of it, or the
        member is encrypted, damaged, or much larger than a run can be.
    """
    with readable(Path(path)), zipfile.ZipFile(path) as archive:
        _check_names(archive.namelist(), path)
        infos = [info for info in archive.infolist() if info.filename == name]
        if len(infos) != 1:
            count = f"{len(infos)} files" if infos else "no file"
            raise InputError(f"{path} holds {count} {name}: get it from its source again.")
        (info,) = infos
        _check_member(info, path)
        size = info.file_size if n_bytes is None else min(n_bytes, info.file_size)
        with archive.open(info) as member:
            data = io.BytesIO()
            # The last of these reads compares the checksum, where it comes to the end.
            while data.tell() < size and (block := member.read(min(_BLOCK, size - data.tell()))):
                data.write(block)
            return data.getvalue()


def _check_names(names: list[str], path: str | os.PathLike) -> None:
    for name in names:
        if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{path} holds a file named {name!r}, which leads out of it: get the archive from "
                "its source again."
            )


def _check_member(info: zipfile.ZipInfo, path: str | os.PathLike) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise InputError(f"{path} is encrypted: decrypt it first.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{path} is packed by other means than deflate: unpack it and zip it again."
        )
    if info.file_size > _LARGEST or info.file_size > _HIGHEST_RATIO * max(1, info.compress_size):
        raise InputError(
            f"{path} declares {info.file_size:,} bytes for {info.filename}, packed in "
            f"{info.compress_size:,}, which no run has: get the archive from its source again."
        )


# What was done in the scanner: the task is matching of faces and shapes.
TASKS = {"rfMRI": "rest", "tfMRI": "emotion"}
_NAME = re.compile(r"(?P<subject>\d+)_32136_(?P<session>\d+)_0\.zip")
_FOLDER = "surf_fMRI/CIFTIs"
_TR = 0.735
# Central directories are small and the files many: what takes time is to wait for the disk.
_READERS = 8


def find_ukbb_runs(
    root: str | os.PathLike,
    *,
    modalities: Sequence[str] = tuple(TASKS),
    subjects: str | None = None,
) -> tuple[list[RunFiles], list[str]]:
    """Finds the runs in the archives of a tree, in key order, and remarks on what is missing.

    An archive that cannot be opened, or has neither series, is listed, and told when it is read; so
    are two archives of one session. The fields of runs are subject, session (the number of the
    instance), mod and task. `subjects` says which to take, see `selection.Chooser`.
    """
    root, take = open_root(root), Chooser(subjects)
    archives = [
        (path, match)
        for path in sorted(root.rglob("*_32136_*.zip"))
        if (match := _NAME.fullmatch(path.name)) and take(match["subject"]) and not path.is_dir()
    ]
    runs, without = [], collections.Counter()
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(_members, (path for path, _ in archives))
        bar = tqdm.tqdm(found, "archives", len(archives), leave=False, unit="zip", delay=1)
        for (path, match), members in zip(archives, bar, strict=True):
            wanted = [pair for pair in members if pair[0] in modalities]
            without.update(set(modalities) - dict(wanted).keys())
            subject, session = match["subject"], int(match["session"])
            for modality, member in wanted:
                fields = {"subject": subject, "session": session}
                run = RunFiles(
                    key=f"sub-{subject}_ses-{session}_mod-{modality}",
                    path=path,
                    fields=fields | {"mod": modality, "task": TASKS[modality]},
                    read=functools.partial(read_ukbb_run, member=member),
                    read_header=functools.partial(read_ukbb_header, member=member),
                    sidecar_tr=_TR,
                )
                runs.append(run)
    if not runs:
        raise nothing_found(root, f"PARTICIPANT_32136_INSTANCE_0.zip with {_FOLDER} in it")
    remarks = [f"Sessions without {name}: {count}." for name, count in sorted(without.items())]
    return sorted(runs, key=lambda run: (run.key, str(run.path))), remarks + take.remarks()


def read_ukbb_run(path: str | os.PathLike, member: str, *, whole: bool = False) -> SurfaceRun:
    """Reads the run that is a member of an archive; see `cifti.cifti_run`."""
    with readable(Path(path)):
        image = unpack_cifti(functools.partial(read_member, path, member), only_header=False)
        return cifti_run(image, str(path), whole)


def read_ukbb_header(path: str | os.PathLike, member: str) -> SurfaceHeader:
    """Reads what the header of such a run tells; only that is decompressed."""
    with readable(Path(path)):
        image = unpack_cifti(functools.partial(read_member, path, member), only_header=True)
        return cifti_header(image, str(path))


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
