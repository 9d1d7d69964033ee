"""What checkpoints and model directories say about the run that they come from."""

from typing import Any

from ml_collections import ConfigDict

from data_tools.safe_text import without_secrets
from fmrifm.input.data import Data, same_stores
from fmrifm.model.files import ModelFiles
from fmrifm.runs.config import config_dict
from fmrifm.runs.export import describe_data, describe_model, hashed_subjects, origin_of
from fmrifm.trainer.program import Program


class RunRecord:
    """Config, data and descent of the weights of a run."""

    def __init__(self, config: ConfigDict, data: Data, program: Program):
        self._config, self._data, self._program = config, data, program
        # Where the weights come from: whose data they have seen, and published models.
        self._descent = {"subjects_seen": [hashed_subjects(data)], "sources": [], "license": ""}

    def starts_from(self, descent: dict[str, Any]) -> None:
        """The weights are those of a warm start, with this descent."""
        seen = descent["subjects_seen"] + self._descent["subjects_seen"]
        self._descent = {**descent, "subjects_seen": seen}

    def continues(self, meta: dict[str, Any]) -> None:
        """The weights are those of a checkpoint, with the record `meta` of an earlier start."""
        same_data = same_stores(meta["stores"], self._data.digests())
        same_data &= meta["config"]["data"]["train"] == without_secrets(self._config.data.train)
        seen = meta["subjects_seen"] + ([] if same_data else self._descent["subjects_seen"])
        self._descent = {**origin_of(meta), "subjects_seen": seen}

    def files(self, params: dict, step: int) -> ModelFiles:
        """The model directory of parameters on the host."""
        program, preprocessing = self._program, describe_data(self._config, self._data)
        return ModelFiles(
            program.options, params, program.cut, preprocessing, **self._descent, step=step
        )

    def meta(self) -> dict[str, Any]:
        """The JSON that a checkpoint holds beside the state."""
        return {
            "config": config_dict(self._config),
            "stores": self._data.digests(),
            "chosen": self._data.chosen(),
            **self._descent,
            "preprocessing": describe_data(self._config, self._data),
            "model": describe_model(self._program.options, self._program.cut),
        }
