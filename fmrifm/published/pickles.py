"""Weights that PyTorch has pickled, read without running what a pickle may hold."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError

PICKLES = (".pth", ".pt", ".bin")


def read_pickle(path: Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """Tensors and settings of a checkpoint, through torch's weights-only loader: no code runs.

    Raises:
      InputError: the file is damaged, holds code or no weights, or PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} can only be read with PyTorch: pip install 'fmrifm[torch]'."
        ) from error
    try:
        # Mapped, so that the optimizer's state beside the weights is never read.
        stored = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise InputError(f"{path} is damaged or no file of weights: get it again.") from error
        raise InputError(
            f"{path} holds Python code ({code[1]}) beside its weights, which is never run: ask its "
            "author for plain weights."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        if getattr(error, "filename", None):
            raise  # the file system says no
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it ends too soon"
        raise InputError(f"{path} is damaged ({reason}): get it again.") from error
    config: Any = None
    if isinstance(stored, dict):
        config = stored.get("args")
        stored = next((stored[k] for k in ("model", "state_dict") if k in stored), stored)
    if not isinstance(stored, dict) or not all(torch.is_tensor(x) for x in stored.values()):
        raise InputError(f"{path} holds no table of weights: give a checkpoint with a `model`.")
    state = {name: x.detach().to(torch.float32).numpy().copy() for name, x in stored.items()}
    return state, config if isinstance(config, dict) else None
