"""Components of frames that come in batches are those of all frames at once."""

import numpy as np

from fmrifm.input.principal_components import StreamingComponents


def test_batches_give_the_components_of_all_frames():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 50)) + rng.normal(size=50)
    collected = StreamingComponents(n_pixels=50, keep=8)
    for batch in np.split(frames.astype(np.float32), [7, 20, 21, 45]):
        collected.add(batch)
    mean_V, maps_KxV = collected.components()
    np.testing.assert_allclose(mean_V, frames.mean(0), atol=1e-5)
    # Eight directions are all that there is: the covariance is exact, whatever the signs.
    np.testing.assert_allclose(maps_KxV.T @ maps_KxV, np.cov(frames.T, bias=True), atol=1e-4)
    lengths = np.linalg.norm(maps_KxV, axis=1)
    assert (np.diff(lengths) <= 0).all()


def test_few_frames_give_few_components():
    collected = StreamingComponents(n_pixels=5, keep=8)
    collected.add(np.eye(4, 5, dtype=np.float32))
    assert len(collected.components().maps_KxV) == 2
