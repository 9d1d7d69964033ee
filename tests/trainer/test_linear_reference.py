"""The linear predictor: its loss is that of the Gaussian conditional mean, computed once."""

import numpy as np
import pytest

from fmrifm.input.data import open_data
from fmrifm.input.principal_components import Components
from fmrifm.trainer.linear_fit import LinearFit, linear_sums, on_patches
from fmrifm.trainer.loop import train
from fmrifm.trainer.program import Program
from tests.conftest import write_toy_store
from tests.trainer.commands import metrics


@pytest.mark.parametrize("masking", ["tube", "random"])
def test_it_is_the_conditional_mean(toy_config, one_device, tmp_path, masking):
    """By hand in NumPy, over pixels that have data, of a run with missing ones."""
    rng = np.random.default_rng(0)
    missing = np.arange(40, 52)
    store = write_toy_store(tmp_path / "missing", seed=5, subjects=1, missing=missing)
    config = toy_config(data__train=str(store), data__eval="", model__masking=masking)
    data = open_data(config)
    program = Program(config, data.geometry)
    task, cut = program.task, program.cut
    batch = program.eval_batches(data.train, data.geometry)[0]
    pixels, mask = task.masked(batch)
    size = cut.n_patches * cut.patch_dim
    components = Components(
        rng.normal(size=size).astype(np.float32), rng.normal(size=(6, size)).astype(np.float32)
    )
    choices = np.array([[6, 0.5], [3, 2.0]], np.float32)
    maps = on_patches(components, cut, cut)
    found = linear_sums(task.objective, {}, pixels, mask, batch["counted"], maps, choices)

    o, n = program.options, cut.n_patches
    for c, (rank, noise) in enumerate(choices):
        maps_VxK, error, count = components.maps_KxV[: int(rank)].T.astype(float), 0.0, 0
        for b in np.flatnonzero(batch["counted"]):
            # (slots, frames of a token, pixels)
            values, valid = (
                np.asarray(x[b]).reshape(o.slots, n, o.t_patch, -1).swapaxes(1, 2)
                .reshape(o.slots, o.t_patch, size)
                for x in (pixels.values_BxMxV, pixels.valid_BxMxV)
            )  # fmt: skip
            seen, asked = (
                np.repeat(np.isin(np.arange(o.slots * n), index[b]), cut.patch_dim)
                .reshape(o.slots, size)
                for index in mask
            )  # fmt: skip
            for slot, frame in np.ndindex(o.slots, o.t_patch):
                if frame % o.t_pred_stride:
                    continue
                v = seen[slot] & valid[slot, frame]
                q = asked[slot] & valid[slot, frame]
                a, left = maps_VxK[v], values[slot, frame] - components.mean_V
                codes = np.linalg.solve(a.T @ a / noise + np.eye(int(rank)), a.T @ left[v] / noise)
                error += ((maps_VxK[q] @ codes - left[q]) ** 2).sum()
                count += q.sum()
        assert found.error[c] == pytest.approx(error, rel=1e-4)
        assert found.pixels[c] == count


def test_it_stands_beside_every_loss_and_is_computed_once(toy_config, one_device, tmp_path):
    config = toy_config(eval_linear=True, total_steps=4)
    assert train(config, tmp_path / "a") == 0
    lines = [x for x in metrics(tmp_path / "a") if "eval/held/loss" in x]
    for line in lines:
        loss, zero = line["eval/held/loss"], line["eval/held/loss_zero"]
        assert line["eval/held/explained"] == pytest.approx(1 - loss / zero)
    assert len({line["eval/held/loss_linear"] for line in lines}) == 1
    # Smooth noise of a few frames: little can be predicted, and a good choice of noise says so.
    assert 0.8 < lines[0]["eval/held/loss_linear"] / lines[0]["eval/held/loss_zero"] < 1.01
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(LinearFit, "best")  # another model, the same data and masks
        assert train(toy_config(eval_linear=True, total_steps=4, seed=3), tmp_path / "b") == 0
        with pytest.raises(AttributeError):
            train(toy_config(eval_linear=True, model__mask_ratio=0.5), tmp_path / "c")
    again = [x for x in metrics(tmp_path / "b") if "eval/held/loss" in x]
    assert again[0]["eval/held/loss_linear"] == pytest.approx(lines[0]["eval/held/loss_linear"])
