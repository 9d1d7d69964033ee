"""The options of published models mean what they mean there, and unknown ones are named."""

import pytest

from data_tools.errors import InputError
from fmrifm.published.published_options import MODEL_DEFAULTS, flat_config, read_recipe
from tests.published.models import DEFAULT, SHAPES

USUAL = {"normalize": "frame", "no_coord_normalize": False, "clamp": 3.0, "tr": 1.0}


def test_class_defaults():
    """What a config does not say is what the published classes do."""
    options = read_recipe({}, ["encoder.norm.bias"], "config").options
    assert options.grid == (14, 14) and options.patch_shape == (16, 16)
    assert (options.num_frames, options.t_patch, options.in_chans) == (None, 1, 3)
    assert (options.embed_dim, options.depth, options.num_heads) == (768, 12, 12)
    decoder = (options.decoder_embed_dim, options.decoder_depth, options.decoder_num_heads)
    assert decoder == (512, 4, 16)
    assert (options.pos_embed, options.decoding, options.target_norm) == ("abs", "attn", "none")
    assert (options.masking, options.mask_ratio, options.pred_mask_ratio) == ("random", 0.75, None)
    assert (options.t_pred_stride, options.pred_edge_pad, options.pca_norm_nc) == (1, 0, 2)
    assert (options.class_token, options.reg_tokens, options.head_init_scale) == (True, 0, 1.0)
    off = ("no_decode_pos", "no_embed_class", "mask_drop_scale", "drop_path_rate", "gauss_sigma")
    assert not any(getattr(options, name) for name in off)


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"model": "mae_vit_base"}, {"embed_dim": 768, "depth": 12, "decoder_embed_dim": 512}),
        ({"model": "mae_vit_huge"}, {"embed_dim": 1280, "depth": 32, "num_heads": 16}),
        (
            {"model": "mae_vit_d9", "model_kwargs": {"decoder_depth": 4}},
            {"embed_dim": 576, "decoder_depth": 3, "decoder_num_heads": 12},
        ),
        (
            {"model": "mae_vit_small", "model_kwargs": {"decoder_depth": 2}},
            {"embed_dim": 384, "decoder_depth": 2},
        ),
        ({"model": "vit_small"}, {"embed_dim": 384, "decoding": "none"}),
        (
            {"embed_dim": 96, "num_heads": 6, "decoder_embed_dim": None, "decoder_num_heads": None},
            {"decoder_embed_dim": 96, "decoder_num_heads": 6},
        ),
        ({"head_init_scale": 0.0, "gauss_sigma": None}, {"head_init_scale": 0, "gauss_sigma": 0}),
        (
            {"img_size": [465, 512], "patch_size": [1, 512], "in_chans": 1},
            {"grid": (465, 1), "patch_shape": (1, 512)},
        ),
        (
            {"img_size": [16, 224, 560], "patch_size": [4, 16, 16]},
            {"num_frames": 16, "t_patch": 4, "grid": (14, 35)},
        ),
        (
            {"model_kwargs": None, "masking": None, "mask_patch_size": 32, "mask_ratio": 0.9},
            {"masking": "random", "mask_patch_size": 32, "mask_ratio": 0.9},
        ),
        ({"img_size": [8, 64], "patch_size": [1, 64], "mask_patch_size": [1, 64]},
         {"mask_patch_size": 0}),
    ],
)  # fmt: skip
def test_options_of_a_config(config, expected):
    options = read_recipe(config, ["encoder.norm.bias"], "config").options
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    "config, words",
    [
        ({"hyperbolic": True}, "option hyperbolic, which fmrifm does not know"),
        ({"model_kwargs": {"epochs": 3, "no_cls": 1}}, "options epochs, no_cls, which"),
        ({"qkv_bias": False}, "qkv_bias=False, and fmrifm knows only qkv_bias=True"),
        ({"mlp_ratio": 2.0}, "mlp_ratio=2.0, and fmrifm knows only mlp_ratio=4"),
        ({"final_norm": False}, "final_norm=False"),
        ({"model": "resnet50"}, "the model 'resnet50', which"),
        ({"model": "mae_vit_d4"}, "SIZE one of small"),
        ({"model": "mae_vit_d9", "embed_dim": 64}, "embed_dim=64, and its model mae_vit_d9 means"),
        ({"decoding": "diffusion"}, "decoding='diffusion' is unknown"),
        ({"class_token": None}, "class_token=None: it must be like True"),
        ({"depth": "12"}, "depth='12': it must be like 12"),
        ({"depth": True}, "depth=True"),
        ({"mask_ratio": "most"}, "wrong kind"),
        ({"img_size": [10, 17]}, r"img_size=\[10, 17\] that patch_size=\[16, 16\] does not divide"),
        ({"img_size": "224"}, "img_size='224'"),
        ({"num_frames": 16}, "no t_patch_size"),
        ({"num_frames": 16, "t_patch_size": 3}, "t_patch=3 must divide num_frames=16"),
        ({"normalize": "zscore"}, "normalize='zscore', which"),
        ({"mask_patch_size": [16, 32]}, r"mask_patch_size=\[16, 32\]"),
        ({"model_kwargs": "decoding=attn"}, "model_kwargs that are no table"),
        ({"in_chans": 1.5}, "in_chans=1.5: it must be a whole number"),
        ({"preprocessing": [1]}, r"preprocessing=\[1\]: it must be a table"),
        ({"clip_vmax": "3"}, "clip_vmax='3': it must be a number or null"),
        ({"sources": 5}, "sources=5: it must be a list of tables with a name"),
        ({"sources": [{"name": "a"}]}, "sources=.*a name and a license"),
        ({"subjects_seen": None}, "subjects_seen=None: it must be a list of tables with a salt"),
        ({"subjects_seen": [{"salt": "a", "hashes": [1]}]}, "subjects_seen="),
        ({"input_space": 400}, "input_space=400: it must be a name"),
        ({"space": None}, "space=None: it must be a name"),
    ],
)
def test_options_that_make_no_sense_are_named(config, words):
    with pytest.raises(InputError, match=words):
        read_recipe(config, ["encoder.norm.bias"], "config")


def test_preprocessing_is_told(capsys):
    def told(**config):
        clip = {"img_size": [8, 8], "patch_size": 8, "num_frames": 4, "t_patch_size": 2}
        return read_recipe({**clip, **config}, ["encoder.x"], "config").preprocessing

    assert told() == USUAL
    assert capsys.readouterr().out == ""
    assert told(normalize=None, clip_vmax=5) == {**USUAL, "normalize": "none", "clamp": 5}
    assert "clamped to +-5; fmrifm clamps to +-3.0" in capsys.readouterr().out
    assert told(clip_vmax=None, normalize="global")["clamp"] is None
    assert "trained on values as they are" in capsys.readouterr().out
    assert told(no_coord_normalize=True) == {**USUAL, "no_coord_normalize": True}
    image = read_recipe({}, [], "config").preprocessing
    assert image["normalize"] == "none"


def test_the_config_is_complete():
    config = flat_config(DEFAULT, "flat", {"normalize": "none"})
    assert MODEL_DEFAULTS.keys() <= config.keys()
    assert (config["img_size"], config["patch_size"], config["t_patch_size"]) == ([16, 32], 4, 2)
    assert (config["normalize"], config["clip_vmax"]) == (None, 3.0)
    assert config["model"] == "MaskedAutoencoderViT"
    oblong = flat_config(SHAPES["2-D"], "image", {})
    assert (oblong["patch_size"], oblong["num_frames"]) == ([2, 4], None)
    assert (oblong["model"], oblong["decoding"]) == ("MaskedViT", "attn")
