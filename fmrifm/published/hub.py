"""Models on the Hugging Face hub: ids, the registered names of published models, downloads.

An id is `owner/name[:sub/path][@revision]`; the sub path is a file of weights or a directory that
holds model.safetensors.
"""

import dataclasses
import glob
import re
from pathlib import Path, PurePosixPath

from data_tools.errors import InputError
from data_tools.files.directory_sums import SUMS
from fmrifm.published.licenses import LICENSE_NAMES
from fmrifm.published.weights import WEIGHT_SUFFIXES

PUBLISHED = "medarc/CortexMAE"


@dataclasses.dataclass(frozen=True)
class HubId:
    """Where weights lie on the hub.

    Attributes:
      repository: "owner/name".
      path: of a file or directory in it; "" for its top.
      revision: a branch, tag or commit; None for the newest.
    """

    repository: str
    path: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        path = f":{self.path}" if self.path else ""
        return self.repository + path + (f"@{self.revision}" if self.revision else "")


def _registered() -> dict[str, str]:
    """Published name -> path of its checkpoint; replicates end in _r2, _r3 ..."""
    rows = [  # name, folder of replicate {r}, how many
        ("flat", "input_space_v3/flat_lr1e-3_{r}", 8),
        ("volume", "input_space_v3/mni_cortex_lr1e-3_{r}", 8),
        ("parcel", "input_space_v3/schaefer400_lr3e-4_{r}", 8),
        *((f"flat_n{n}", f"data_scaling/n{n}_{{r}}", 2) for n in (100, 200, 400, 800, 1600)),
        *((f"flat_d{d}", f"model_scaling/d{d}_{{r}}", 2) for d in (3, 6, 9, 15)),
        ("flat_d12", "input_space_v3/flat_lr1e-3_{r}", 2),
        *((f"flat_pt{t}", f"t_patch_size/pt-{t}", 1) for t in (1, 2, 4, 8, 16)),
        ("flat_p8", "patch_size/patch8", 1),
        ("flat_denoise", "decoders/attn_reg1_pep4", 1),
        *((f"flat_crossreg{n}", f"decoders/crossreg_reg{n}", 1) for n in (1, 4, 16)),
        *((f"flat_{kind}", f"rest_v_task/{kind}_ep50_{{r}}", 2) for kind in ("rest", "task")),
        ("parcel_a424", "subcortical/a424_lr3e-4_{r}", 4),
        ("parcel_s400ts3", "subcortical/schaefer400_tians3_lr3e-4_{r}", 4),
        ("parcel_s1000", "schaefer1000/schaefer1000_lr3e-4_{r}", 4),
    ]
    names = {}
    for name, folder, count in rows:
        # Small data overfit early: there the best checkpoint is the one to use.
        kind = "best" if folder.startswith("data_scaling") else "last"
        for r in range(1, count + 1):
            place = folder.format(r=r)
            if r == 1 and folder.startswith("model_scaling"):
                place = place.removesuffix("_1")
            replicate = f"_r{r}" if r > 1 else ""
            names[f"cortex_mae_{name}{replicate}"] = f"{place}/pretrain/checkpoint-{kind}.pth"
    return names


REGISTERED = _registered()


def parse_hub_id(text: str) -> HubId | None:
    """An id or a registered name (`name[@revision]`) as what it means; None for anything else."""
    name, _, revision = text.partition("@")
    if name in REGISTERED:
        return HubId(PUBLISHED, REGISTERED[name], revision or None)
    part = r"[A-Za-z0-9][\w.-]*"
    match = re.fullmatch(rf"({part}/{part})(?::([^@]*))?(?:@(.+))?", text)
    if match is None or match[1].endswith(WEIGHT_SUFFIXES):  # a file that is not there
        return None
    path = (match[2] or "").strip("/")
    if ".." in PurePosixPath(path).parts:
        return None
    return HubId(match[1], path, match[3])


def download(hub_id: HubId) -> tuple[Path, list[Path]]:
    """Fetches the weights and what belongs to them; what is in the cache is not fetched again.

    Returns:
      The file of weights or the directory that holds model.safetensors, and the directories in
      which a licence may lie, the nearest first.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise InputError(
            f"{hub_id} is not a path here, and to look on the Hugging Face hub the package "
            "huggingface_hub is needed: pip install 'fmrifm[hub]'."
        ) from error
    is_file = hub_id.path.endswith(WEIGHT_SUFFIXES)
    inside, notes = PurePosixPath(hub_id.path), (*LICENSE_NAMES, "README.md")
    folder = inside.parent if is_file else inside
    weights = inside if is_file else folder / "model.safetensors"
    beside = [folder / name for name in ("config.json", "geometry.npz", SUMS, *notes)]
    places = dict.fromkeys([weights, *beside, *map(PurePosixPath, notes)])
    wanted = [glob.escape(str(place)) for place in places]
    unreachable = (
        f"{hub_id} is not in the cache and the Hugging Face hub cannot be reached: check the "
        "network, or download it elsewhere and give its path."
    )
    try:
        top = Path(
            huggingface_hub.snapshot_download(
                hub_id.repository, revision=hub_id.revision, allow_patterns=wanted
            )
        )
    except errors.GatedRepoError as error:
        raise InputError(
            f"{hub_id.repository} asks its users to agree to its terms: do so on "
            f"https://huggingface.co/{hub_id.repository} and log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{hub_id} is neither a path here nor a model that you may read on the Hugging Face "
            "hub: check the name, or log in with `hf auth login` if it is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{hub_id.repository} has no revision {hub_id.revision}: give a branch, tag or commit."
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"{hub_id} is neither a path here nor an id of the hub.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise InputError(unreachable) from error
    except errors.HfHubHTTPError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The Hugging Face hub does not give {hub_id}: {reason}.") from error
    except Exception as error:
        # What is under the hub's client changes: its errors are known by where they come from.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests"):
            raise
        raise InputError(unreachable) from error
    if not (top / weights).is_file():
        raise InputError(
            f"{hub_id.repository} has no file {weights}: check the path after the ':'."
        )
    places = list(dict.fromkeys([top / folder, top]))
    return (top / weights if is_file else top / folder), places
