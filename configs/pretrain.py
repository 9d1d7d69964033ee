"""MAE pretraining with the published recipe.

    python -m fmrifm.pretrain --config=configs/pretrain.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE

The argument names a size (vit_s, vit_b, vit_l, vit_h, d3 ... d15) and may go on `,large_batch`,
which takes as many clips in fewer steps, for many chips, `,network_maps`, which begins with a
linear model of the training data (see fmrifm/model/network_maps.py), or end in `,runlocal`, which
shrinks everything so that the same file is a smoke test on a laptop.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {"": "base", "vit_s": "small", "vit_b": "base", "vit_l": "large", "vit_h": "huge"}
WORDS = ("large_batch", "network_maps", "runlocal")


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a run; `arg` is `SIZE[,large_batch][,network_maps][,runlocal]`."""
    words = arg.split(",")
    size = ",".join(word for word in words if word and word not in WORDS)
    config = ConfigDict()

    config.seed = 0  # of initial weights, clips and masks
    config.batch_size = 32  # clips of the global batch
    config.total_steps = 625_000  # updates; 100 epochs of 200,000 clips
    config.log_every = 100  # steps between training lines in metrics.jsonl
    config.eval_every = 6_250  # steps between evaluations; 0 evaluates at the end only
    config.eval_linear = True  # also the loss of a linear predictor, computed once per store
    config.checkpoint_every = 6_250  # steps between checkpoints
    config.keep_checkpoints = 2  # how many of the newest stay
    config.keep_every = 0  # checkpoints at multiples of this stay for good; 0 for none
    config.keep_best = placeholder(str)  # name of an eval set: its best checkpoint stays
    config.watchdog_minutes = 30.0  # end a run in which no step finishes for so long; 0 for never
    config.figures = 1  # reconstructions drawn per eval set and evaluation
    config.compute_dtype = "bfloat16"  # of matrix products: bfloat16 or float32
    config.attention = "auto"  # its form: auto, xla, heads, blocked, splash (TPU), cudnn (NVIDIA)
    config.init_from = placeholder(str)  # warm start: a model directory, workdir or checkpoint
    config.wandb_project = placeholder(str)  # Weights & Biases project; needs the extra `wandb`

    config.data = ConfigDict()
    config.data.train = ""  # stores: path?field=pattern@share,...
    config.data.eval = ""  # evaluation sets: name=path?field=pattern,...
    config.data.eval_clips = 0  # clips scored per eval set, evenly spaced; 0 for all
    config.data.num_frames = 16  # frames of a clip
    config.data.sampling = "random"  # random, sequential (a clip each stride) or event
    config.data.stride = 0  # frames between sequential clips; 0 for num_frames
    config.data.hrf_delay = 0.0  # seconds from an event's onset to its clip
    config.data.normalize = "frame"  # over valid pixels: frame, global or none
    config.data.no_coord_normalize = False  # first undo the z-score, with the store's mean and std
    config.data.skip_short_runs = False  # leave out runs shorter than a clip instead of refusing
    config.data.verify = True  # compare each run with its checksum when it is first read
    config.data.threads = 2  # that read batches ahead on each host
    config.data.workers = 0  # processes that do, for slow file systems and buckets
    config.data.requests = 32  # reads under way at once in each of these, of stores in buckets
    config.data.cache_dir = placeholder(str)  # keeps here what was read of slow stores: disk or RAM
    config.data.cache_gb = 100.0  # at most so much of it, in GB
    config.data.clips_per_window = 1  # random clips of a batch from one window: fewer bytes each
    config.data.window = 0  # its frames; 0 for num_frames: one clip, each time masked otherwise

    config.probe = ConfigDict()  # of the frozen model amid its training, see configs/probe.py
    config.probe.every = 0  # steps, multiples of eval_every, and after the last; 0 for never
    config.probe.task = ""  # argument of configs/probe.py: its target, unit and heads
    config.probe.representations = ("avg_patch",)  # few and small: this holds up the training
    config.probe.train = ""  # stores, as data.train, data.val and data.test there
    config.probe.val = ""  # stores to choose hyperparameters
    config.probe.test = ""  # stores to report, or name=path,...

    config.augment = ConfigDict()  # of training clips
    config.augment.tr_scale = 1.0  # 0.8: TR between 0.8 and 1 / 0.8 of the stored; 1 is off
    config.augment.crop_scale = 1.0  # smallest share of the map that a crop keeps; 1 is off
    config.augment.crop_aspect = 1.0  # 0.8: crops from 0.8 to 1 / 0.8 as wide; 1 keeps the aspect
    config.augment.gray_jitter = 0.0  # brightness and contrast are scaled by up to 1 +- this

    config.mesh = ConfigDict()
    config.mesh.dcn_data = 1  # slices, each with whole replicas of the model
    config.mesh.data = -1  # replicas of the model; -1 takes the devices that are left
    config.mesh.fsdp = 1  # parameters are split over so many devices, rows too
    config.mesh.tensor = 1  # heads and MLP columns are split over so many devices

    config.model = ConfigDict()
    config.model.size = SIZES.get(size, size)  # small base large huge d3 d6 d9 d12 d15
    config.model.embed_dim = placeholder(int)  # each of these six overrides the size's
    config.model.depth = placeholder(int)  # encoder blocks
    config.model.num_heads = placeholder(int)  # encoder heads
    config.model.decoder_embed_dim = placeholder(int)  # decoder width
    config.model.decoder_depth = placeholder(int)  # decoder blocks
    config.model.decoder_num_heads = placeholder(int)  # decoder heads
    config.model.patch = 16  # side of a patch in pixels; divides the store's; 0 takes the store's
    config.model.t_patch = 4  # frames of a token
    config.model.mask_ratio = 0.9  # share of the full grid that is hidden
    config.model.masking = "tube"  # tube or random
    config.model.mask_patch_size = 0  # side in pixels of the squares that are drawn; 0: patches
    config.model.mask_drop_scale = False  # scale tokens by the inverse of their observed share
    config.model.gauss_sigma = 0.0  # largest share of noise in training inputs
    config.model.drop_path_rate = 0.0  # stochastic depth of the last encoder block
    config.model.pos_embed = "sep"  # sep, abs or sincos
    config.model.class_token = True  # whether there is one
    config.model.reg_tokens = 0  # registers
    config.model.no_embed_class = True  # class token and registers have no position
    config.model.decoding = "attn"  # attn, cross or crossreg
    config.model.no_decode_pos = True  # visible tokens get no position in the decoder
    config.model.t_pred_stride = placeholder(int)  # predict each so many frames; min(2, t_patch)
    config.model.pred_mask_ratio = placeholder(float)  # share of the full grid not predicted; all
    config.model.pred_edge_pad = 0  # pixels so near to visible ones are not predicted
    config.model.target_norm = "none"  # none, global, frame, patch or pca
    config.model.pca_norm_nc = 2  # components that target_norm=pca takes out of each frame
    config.model.pca_components = placeholder(str)  # file of them (.npz or .npy), or cortex_mae
    config.model.head_init_scale = 0.0  # factor on the head's initial weights
    config.model.network_maps = 0  # maps of a linear model that the network goes on from
    config.model.remat = "none"  # recomputed in the backward pass: none, dots, attention or full

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # or muon: that for matrices inside the blocks, AdamW for the rest
    config.optim.lr = placeholder(float)  # peak rate, absolute
    config.optim.base_lr = placeholder(float)  # peak rate at 256 clips; 1e-3 if neither is given
    config.optim.lr_scaling = "linear"  # how base_lr, never lr, grows with the batch: or sqrt
    config.optim.warmup_steps = config.get_ref("total_steps") // 20  # of linear warm-up
    config.optim.weight_decay = 0.05  # of all but biases and norms
    config.optim.clip_norm = 1.0  # largest norm of the gradient; 0 never clips
    config.optim.b1 = 0.9  # decay of Adam's first moment
    config.optim.b2 = 0.95  # decay of Adam's second moment
    config.optim.accumulation = 1  # micro-batches of a step

    if "large_batch" in words:
        # The batch that masked autoencoders were first trained with, at the very betas, decay and
        # share of warm-up that the recipe has (He et al. 2022, arXiv 2111.06377, table 8). Adam's
        # rate grows with the square root (Malladi et al. 2022, arXiv 2205.10287): from the recipe's
        # 1.25e-4 at 32 clips to 1.4e-3 here, where the linear rule would take 1.6e-2.
        config.batch_size = 4096
        config.total_steps = 4_882  # the recipe's 20 M clips
        config.log_every = 10
        config.eval_every = config.checkpoint_every = 244  # 5 epochs of 200,000 clips
        config.optim.base_lr = 3.54e-4
        config.optim.lr_scaling = "sqrt"

    if "network_maps" in words:
        config.model.network_maps = 160

    if "runlocal" in words:
        config.batch_size = 8
        config.total_steps = 20
        config.log_every = config.eval_every = config.checkpoint_every = 10
        config.compute_dtype = "float32"
        config.data.eval_clips = 16
        config.model.size = "d3"
        config.model.t_patch = 16
        config.optim.lr, config.optim.base_lr = 1e-3, None
    return config
