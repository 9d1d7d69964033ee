"""timm's Vision Transformers become encoders of images."""

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.model.files import to_reference
from fmrifm.published.weights import load_published
from tests.published.models import assert_same_params, write_older

torch = pytest.importorskip("torch")


def timm_state(prefix=1, own=True, patches=16, width=8, depth=2, seed=0):
    """Random weights under timm's names."""
    rng = np.random.default_rng(seed)
    shapes = {"patch_embed.proj.weight": (width, 3, 2, 4), "patch_embed.proj.bias": (width,)}
    if prefix:
        shapes["cls_token"] = (1, 1, width)
    if prefix > 1:
        shapes["reg_token"] = (1, prefix - 1, width)
    shapes["pos_embed"] = (1, patches + prefix * own, width)
    for i in range(depth):
        for name, shape in {
            "norm1.weight": (width,), "norm2.weight": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc2.weight": (width, 4 * width),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
            shapes[f"blocks.{i}.{name.replace('weight', 'bias')}"] = shape[:1]
    shapes |= {"norm.weight": (width,), "norm.bias": (width,), "head.weight": (5, width)}
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


@pytest.mark.parametrize("prefix, own", [(0, False), (1, True), (1, False), (3, True), (3, False)])
def test_timm_tables_are_split(tmp_path, capsys, prefix, own):
    state = timm_state(prefix, own)
    files = load_published(write_older(tmp_path, state, {"architecture": "vit"}), num_heads=2)
    assert "Left out the classifier: head.weight" in capsys.readouterr().out
    options = files.options
    assert (options.grid, options.patch_shape, options.in_chans) == ((4, 4), (2, 4), 3)
    assert (options.num_frames, options.t_patch, options.decoding) == (None, 1, "none")
    assert (options.class_token, options.reg_tokens) == (prefix > 0, max(0, prefix - 1))
    assert options.no_embed_class == (prefix > 0 and not own)
    assert (files.geometry.mask.shape, files.geometry.space) == ((8, 16), "image")
    found = to_reference(files.params, options)
    table = state["pos_embed"][0]
    parts = [found.get(name) for name in ("cls_token_pos", "reg_token_pos")]
    parts = [part[0] for part in parts if part is not None] + [found["pos_embed.weight"]]
    np.testing.assert_array_equal(np.concatenate(parts), table)
    weight = state["patch_embed.proj.weight"]
    np.testing.assert_array_equal(found["patch_embed.weight"], weight.reshape(8, 24))


def test_the_fused_matrix_is_split(tmp_path):
    """Attention with q, k and v apart is what timm computes with the fused matrix."""
    state = timm_state()
    files = load_published(write_older(tmp_path, state, {}), num_heads=2)
    x = np.random.default_rng(1).normal(size=(5, 8))
    fused = x @ state["blocks.1.attn.qkv.weight"].T + state["blocks.1.attn.qkv.bias"]
    fused = fused.reshape(5, 3, 2, 4)  # tokens, (q, k, v), heads, width of a head
    ours = {k: v for k, v in to_reference(files.params, files.options).items() if "blocks.1" in k}
    for i, letter in enumerate("qkv"):
        weight, bias = (ours[f"blocks.1.attn.{letter}.{kind}"] for kind in ("weight", "bias"))
        np.testing.assert_allclose((x @ weight.T + bias).reshape(5, 2, 4), fused[:, i], rtol=1e-6)


def test_timm_models_that_cannot_be_read(tmp_path, capsys):
    state = timm_state()

    def load(state, **kwargs):
        return load_published(write_older(tmp_path / "timm", state, {}), **kwargs)

    assert load(state).options.num_heads == 1
    assert "Taking 1 heads of 8" in capsys.readouterr().out
    with pytest.raises(InputError, match="num_heads=3 must divide embed_dim=8"):
        load(state, num_heads=3)
    with pytest.raises(InputError, match="blocks.0.ls1.gamma is not part of this model"):
        load(state | {"blocks.0.ls1.gamma": np.ones(8, np.float32)})
    with pytest.raises(InputError, match="its pos_embed is missing"):
        load({k: v for k, v in state.items() if k != "pos_embed"})
    with pytest.raises(InputError, match="norm.bias is missing"):
        load({k: v for k, v in state.items() if k != "norm.bias"})
    with pytest.raises(InputError, match="attn.q.weight is missing"):
        load(state | {"blocks.0.attn.qkv.weight": np.ones((23, 8), np.float32)})
    oblong = timm_state(patches=6)
    with pytest.raises(InputError, match="7 positions, which is no square grid: give --geometry"):
        load(oblong)
    (tmp_path / "geometry.npz").write_bytes(
        Geometry("film", np.ones((4, 12), bool), (2, 4)).to_bytes()
    )
    files = load(oblong, geometry=str(tmp_path))
    assert (files.options.grid, files.geometry.space) == ((2, 3), "film")
    with pytest.raises(InputError, match="17 positions, which is no 2 x 3 grid"):
        load(state, geometry=str(tmp_path))


def test_a_timm_checkpoint(tmp_path):
    """A bare table of tensors, or one under `model`."""
    state = {name: torch.from_numpy(value) for name, value in timm_state().items()}
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "model.pth")
    a, b = (load_published(tmp_path / name) for name in ("bare.pth", "model.pth"))
    assert_same_params(a.params, b.params)
