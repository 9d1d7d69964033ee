"""The options of published models: their names and class defaults, into ours and back.

Two forms exist: *flat*, all constructor arguments at the top level (a config.json of the hub), and
*args*, the settings of a training run with the model's own under `model_kwargs` (a checkpoint).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from data_tools.errors import InputError
from fmrifm.input.preprocess import CLAMP, NORMALIZATIONS
from fmrifm.model.options import SIZE_FIELDS, SIZES, ModelOptions

# What a missing key means: the default of the published classes.
SHAPE_DEFAULTS = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "num_frames": None,
    "t_patch_size": None,
}
MODEL_DEFAULTS = {
    "depth": 12,
    "embed_dim": 768,
    "num_heads": 12,
    "decoder_depth": 4,
    "decoder_embed_dim": 512,
    "decoder_num_heads": 16,
    "class_token": True,
    "reg_tokens": 0,
    "no_embed_class": False,
    "drop_path_rate": 0.0,
    "mask_drop_scale": False,
    "t_pred_stride": 1,
    "pred_edge_pad": 0,
    "no_decode_pos": False,
    "head_init_scale": 1.0,
    "pos_embed": "abs",
    "decoding": "attn",
    "target_norm": "none",
    "pca_norm_nc": 2,
    "gauss_sigma": 0.0,
}
NULL_MEANS = {"head_init_scale": 1.0, "gauss_sigma": 0.0, "target_norm": "none"}
# Arguments that exist and have one supported value.
FIXED = {"qkv_bias": True, "proj_bias": True, "mlp_ratio": 4, "final_norm": True}
TRAINING_DEFAULTS = {
    "masking": "random",
    "mask_ratio": 0.75,
    "mask_patch_size": 0,
    "pred_mask_ratio": None,
    "remat": "none",
}
# What a flat form may hold apart from constructor arguments; the last four only we write.
OTHER = (
    *("model", "input_space", "normalize", "clip_vmax", "no_coord_normalize"),
    *TRAINING_DEFAULTS,
    *("space", "preprocessing", "subjects_seen", "sources"),
)
AUTOENCODER, ENCODER = "MaskedAutoencoderViT", "MaskedViT"


class Recipe(NamedTuple):
    """A published config in our terms."""

    options: ModelOptions
    input_space: str | None  # None where the config does not name it
    preprocessing: dict  # as in `ModelFiles`


def read_recipe(config: Mapping[str, Any], names: Iterable[str], where: str) -> Recipe:
    """Reads a config of either form.

    Args:
      names: of the tensors: without the prefix "encoder." they are an encoder alone.
      where: the file, for errors.
    """
    flat = "model_kwargs" not in config
    kwargs = config if flat else config["model_kwargs"] or {}
    if not isinstance(kwargs, Mapping):
        raise InputError(f"{where} has model_kwargs that are no table: get it again.")
    known = MODEL_DEFAULTS.keys() | FIXED.keys() | SHAPE_DEFAULTS.keys()
    unknown = sorted(kwargs.keys() - known - set(OTHER if flat else ()))
    if unknown:
        raise InputError(
            f"{where} has the model option{'s' * (len(unknown) > 1)} {', '.join(unknown)}, which "
            "fmrifm does not know: update fmrifm, or leave out what is no option."
        )
    for name, value in FIXED.items():
        if kwargs.get(name, value) != value:
            raise InputError(
                f"{where} has {name}={kwargs[name]}, and fmrifm knows only {name}={value}: this "
                "model cannot be used."
            )
    _check_facts(config, where)
    model = config.get("model")
    sizes = _sizes(model, kwargs, where)
    values = {
        name: _typed(name, {**kwargs, **sizes}, default, where)
        for name, default in MODEL_DEFAULTS.items()
    }
    alone = str(model).startswith("vit_") or model == ENCODER
    if alone or not any(name.startswith("encoder.") for name in names):
        values["decoding"] = "none"
    for name, default in TRAINING_DEFAULTS.items():
        values[name] = default if config.get(name) is None else config[name]
    # In the args form the shape stands beside model_kwargs, which may repeat it.
    shape, patch_shape, clip = _shapes({**config, **kwargs}, where)
    values["mask_patch_size"] = _side(values["mask_patch_size"], patch_shape, where)
    try:
        options = ModelOptions(
            grid=tuple(n // p for n, p in zip(shape, patch_shape, strict=True)),
            patch_shape=patch_shape,
            **clip,
            **values,
        )
    except TypeError as error:
        raise InputError(f"{where} has an option of a wrong kind ({error}): mend it.") from error
    return Recipe(options, config.get("input_space"), _preprocessing(config, clip, where))


def _check_facts(config: Mapping[str, Any], where: str) -> None:
    """Raises InputError where a fact that is no option of the model is of a wrong kind."""

    def table(value, **fields):
        return isinstance(value, Mapping) and all(
            name in value and isinstance(value[name], kinds) for name, kinds in fields.items()
        )

    def rows(value, **fields):
        return isinstance(value, list) and all(table(row, **fields) for row in value)

    checks = {
        "input_space": (lambda x: isinstance(x, str | None), "a name"),
        "space": (lambda x: isinstance(x, str), "a name"),
        "clip_vmax": (
            lambda x: x is None or (type(x) in (int, float) and x >= 0),
            "a number or null",
        ),
        "no_coord_normalize": (lambda x: isinstance(x, bool | None), "true or false"),
        "preprocessing": (lambda x: x is None or table(x), "a table"),
        "sources": (
            lambda x: rows(x, name=str, license=str | None),
            "a list of tables with a name and a license",
        ),
        "subjects_seen": (
            lambda x: (
                rows(x, salt=str, hashes=list)
                and all(isinstance(name, str) for row in x for name in row["hashes"])
            ),
            "a list of tables with a salt and hashes",
        ),
    }
    for name, (good, kind) in checks.items():
        if name in config and not good(config[name]):
            raise InputError(f"{where} has {name}={config[name]!r}: it must be {kind}.")


def flat_config(
    options: ModelOptions, input_space: str, preprocessing: Mapping[str, Any]
) -> dict[str, Any]:
    """The flat form, complete: nothing is left to a default."""
    o = dataclasses.asdict(options)
    square = options.patch_shape[0] == options.patch_shape[1]
    config = {
        "model": ENCODER if options.decoding == "none" else AUTOENCODER,
        "img_size": list(options.frame_shape),
        "patch_size": options.patch_shape[0] if square else list(options.patch_shape),
        "in_chans": options.in_chans,
        "num_frames": options.num_frames,
        "t_patch_size": None if options.num_frames is None else options.t_patch,
        **{name: o[name] for name in MODEL_DEFAULTS},
        **FIXED,
        **{name: o[name] for name in TRAINING_DEFAULTS},
        "mask_patch_size": options.mask_patch_size or None,
        "input_space": input_space,
        "normalize": preprocessing.get("normalize", "frame"),
        "no_coord_normalize": preprocessing.get("no_coord_normalize", False),
        "clip_vmax": preprocessing.get("clamp", CLAMP),
        "preprocessing": dict(preprocessing),
    }
    if config["normalize"] == "none":
        config["normalize"] = None
    if options.decoding == "none":
        config["decoding"] = "attn"  # the published classes have no name for it
    return config


def _sizes(model: Any, kwargs: Mapping[str, Any], where: str) -> dict[str, int]:
    """What the name of a model fixes."""
    if model in (None, AUTOENCODER, ENCODER):
        return {}
    match = re.fullmatch(r"(?:mae_)?vit_(\w+)", str(model))
    if match is None or match[1] not in SIZES:
        raise InputError(
            f"{where} is of the model {model!r}, which fmrifm does not know: it knows "
            f"{AUTOENCODER}, {ENCODER}, mae_vit_SIZE and vit_SIZE with SIZE one of "
            f"{', '.join(SIZES)}."
        )
    sizes = dict(zip(SIZE_FIELDS, SIZES[match[1]], strict=True))
    if not match[1].startswith("d"):  # the decoder is free
        sizes = {name: sizes[name] for name in SIZE_FIELDS[:3]}
    for name, value in sizes.items():
        # The scaling family sets its own decoder depth, whatever a recipe says.
        if name != "decoder_depth" and kwargs.get(name, value) != value:
            raise InputError(
                f"{where} has {name}={kwargs[name]}, and its model {model} means {value}: mend one."
            )
    return sizes


def _typed(name: str, kwargs: Mapping[str, Any], default: Any, where: str) -> Any:
    """An option of the type of its default; null where that has a meaning."""
    value = kwargs.get(name, default)
    if value is None and name in ("decoder_embed_dim", "decoder_num_heads"):  # the encoder's
        name = name.removeprefix("decoder_")
        return _typed(name, kwargs, MODEL_DEFAULTS[name], where)
    if value is None:
        value = NULL_MEANS.get(name)
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise InputError(f"{where} has {name}={kwargs[name]!r}: it must be like {default!r}.")
    return value


def _shapes(
    config: Mapping[str, Any], where: str
) -> tuple[tuple[int, int], tuple[int, int], dict[str, int | None]]:
    """Frame, patch, and what a clip has: num_frames, t_patch, in_chans."""

    def sizes(name, count):
        value = config.get(name, SHAPE_DEFAULTS[name])
        value = [value] * count if isinstance(value, int) else value
        good = isinstance(value, (list, tuple)) and len(value) in (2, 3)
        if not good or not all(isinstance(n, int) and n > 0 for n in value):
            raise InputError(
                f"{where} has {name}={config.get(name)!r}: it must be one number or a pair."
            )
        return list(value)

    image = sizes("img_size", 2)
    patch = sizes("patch_size", len(image))
    frames, t_patch, channels = (
        config.get(name, SHAPE_DEFAULTS[name])
        for name in ("num_frames", "t_patch_size", "in_chans")
    )
    if len(image) == 3 == len(patch) and not frames:  # time is the first of three axes
        frames, t_patch = image.pop(0), patch.pop(0)
    counts = {"num_frames": frames or 1, "t_patch_size": t_patch or 1, "in_chans": channels}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{where} has {name}={value!r}: it must be a whole number above 0.")
    if frames and not t_patch:
        raise InputError(f"{where} has num_frames={frames} and no t_patch_size: add it.")
    if len(image) != 2 or len(patch) != 2 or any(n % p for n, p in zip(image, patch, strict=True)):
        raise InputError(f"{where} has img_size={image} that patch_size={patch} does not divide.")
    clip = {"num_frames": frames or None, "t_patch": t_patch if frames else 1}
    return tuple(image), tuple(patch), {**clip, "in_chans": channels}


def _side(value: Any, patch_shape: tuple[int, int], where: str) -> int:
    """The side of the squares that masking draws; 0 for single patches."""
    if isinstance(value, (list, tuple)):
        if tuple(value) == patch_shape:
            return 0
        if len(set(value)) == 1:
            value = value[0]
    if not isinstance(value, int):
        raise InputError(f"{where} has mask_patch_size={value!r}: it must be one number.")
    return value


def _preprocessing(config: Mapping[str, Any], clip: Mapping[str, Any], where: str) -> dict:
    """How clips were prepared; says what our input pipeline does in another way."""
    normalize = config.get("normalize", "frame" if clip["num_frames"] else "none") or "none"
    if normalize not in NORMALIZATIONS:
        raise InputError(
            f"{where} has normalize={normalize!r}, which fmrifm does not know: it knows frame, "
            "global and null."
        )
    clamp = config.get("clip_vmax", CLAMP) or None
    if clamp != CLAMP:
        found = "values as they are" if clamp is None else f"values clamped to +-{clamp}"
        print(f"The model was trained on {found}; fmrifm clamps to +-{CLAMP}.")
    told = {"tr": 1.0, **(config.get("preprocessing") or {})}
    return {
        **told,
        "normalize": normalize,
        "no_coord_normalize": bool(config.get("no_coord_normalize", False)),
        "clamp": clamp,
    }
