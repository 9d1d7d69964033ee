"""Small valid inputs of every kind, a function each that fills a folder."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
from nibabel import cifti2, freesurfer, gifti

from data_tools.spaces.geometry import Geometry
from data_tools.store.writer import StoreWriter
from tests.data_tools.published import published_shards
from tests.data_tools.readers.surface_files import write_gifti, write_mgz
from tests.runs.run_directories import write_probe, write_run

ROOT = Path(__file__).parents[2]
N = 12  # vertices of a hemisphere
COLUMNS = 40


def geometry() -> Geometry:
    mask = np.ones((8, 8), bool)
    mask[:4, :4] = False
    return Geometry("flat-toy", mask, (4, 4), (0.0, 8.0, 0.0, 8.0), 1.0)


def parcels() -> Geometry:
    regions = tuple(f"P{i}" for i in range(COLUMNS))
    return Geometry("parcels", np.ones((COLUMNS, 1), bool), (1, 1), regions=regions)


def columns_geometry() -> Geometry:
    """With every field that a geometry may have."""
    columns = np.where(geometry().mask, np.arange(64).reshape(8, 8) % 50, -1).astype(np.int32)
    picture = np.arange(-1, 31, dtype=np.int32).reshape(4, 8)
    return dataclasses.replace(
        geometry(), picture=picture, columns=columns, n_columns=50, source_sha256="0" * 64
    )


def write_store(folder: Path) -> None:
    rng, space = np.random.default_rng(0), geometry()
    with StoreWriter(
        folder / "store",
        space,
        tr=1.0,
        preprocessing={"chain": "vertex"},
        provenance={"tool": "x"},
        restricted=["age"],
        shard_bytes=3000,
    ) as writer:
        for i in range(4):
            frames = rng.normal(size=(9, *space.patch_mask.shape)).astype(np.float16)
            scale = {"mean": frames[0], "std": np.abs(frames[1])}
            events = [{"onset": 1.0, "duration": 2.0, "trial_type": "a"}]
            writer.add(
                f"run-{i}",
                frames,
                missing=np.array([3]) if i == 1 else None,
                subject=f"{i:02d}",
                task="rest",
                age=30 + i,
                events=events,
                qc={"fd_mean": 0.1},
                **scale,
            )
        skipped = json.dumps({"key": "k", "path": "p", "reason": "r"}).encode() + b"\n"
        writer.finish(extra={"skipped.jsonl": skipped})


def write_geometry(folder: Path) -> None:
    (folder / "a.npz").write_bytes(columns_geometry().to_bytes())
    (folder / "b.npz").write_bytes(parcels().to_bytes())


def write_model(folder: Path) -> None:
    from fmrifm.model.files import save_model
    from tests.published.models import DEFAULT, tiny_model

    small = dataclasses.replace(DEFAULT, embed_dim=8, depth=1, decoder_embed_dim=4)
    save_model(folder / "model", tiny_model(small))
    fixed = dataclasses.replace(small, pos_embed="sincos", no_embed_class=False)
    save_model(folder / "fixed", tiny_model(fixed))


def write_published(folder: Path) -> None:
    from fmrifm.published.weights import save_published
    from tests.published.models import DEFAULT, tiny_model

    small = dataclasses.replace(DEFAULT, embed_dim=8, depth=1, decoder_embed_dim=4)
    save_published(folder / "model.safetensors", tiny_model(small))


def write_timm(folder: Path) -> None:
    import safetensors.numpy

    rng, d = np.random.default_rng(0), 8
    shapes = {
        **{"patch_embed.proj.weight": (d, 3, 4, 4), "patch_embed.proj.bias": (d,)},
        **{"cls_token": (1, 1, d), "pos_embed": (1, 5, d), "norm.weight": (d,), "norm.bias": (d,)},
        **{f"blocks.0.norm{i}.{x}": (d,) for i in (1, 2) for x in ("weight", "bias")},
        **{"blocks.0.attn.qkv.weight": (3 * d, d), "blocks.0.attn.qkv.bias": (3 * d,)},
        **{"blocks.0.attn.proj.weight": (d, d), "blocks.0.attn.proj.bias": (d,)},
        **{"blocks.0.mlp.fc1.weight": (4 * d, d), "blocks.0.mlp.fc1.bias": (4 * d,)},
        **{"blocks.0.mlp.fc2.weight": (d, 4 * d), "blocks.0.mlp.fc2.bias": (d,)},
    }
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(state, folder / "vit.safetensors")


def write_pickle(folder: Path) -> None:
    shutil.copy(ROOT / "tests" / "golden" / "cm_tiny_default_like.pth", folder / "model.pth")


def write_cifti(folder: Path) -> None:
    models = [
        cifti2.BrainModelAxis.from_surface(np.arange(2, N), N, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for side in ("LEFT", "RIGHT")
    ]
    voxels = cifti2.BrainModelAxis.from_mask(np.ones((3, 1, 1), bool), "thalamus_left", np.eye(4))
    axis = models[0] + voxels + models[1]
    data = np.random.default_rng(0).normal(size=(5, 2 * (N - 2) + 3)).astype(np.float32)
    header = cifti2.Cifti2Header.from_axes((cifti2.SeriesAxis(0, 0.72, 5, "SECOND"), axis))
    nibabel.save(cifti2.Cifti2Image(data, header), folder / "a.dtseries.nii")
    (folder / "b.dtseries.nii.gz").write_bytes(
        gzip.compress((folder / "a.dtseries.nii").read_bytes(), 1, mtime=0)
    )
    table = {0: ("???", (0, 0, 0, 0)), 1: ("A", (1, 0, 0, 1)), 2: ("B", (0, 1, 0, 1))}
    labels = (np.arange(data.shape[1]) % 3)[None].astype(np.float32)
    header = cifti2.Cifti2Header.from_axes((cifti2.LabelAxis(["map"], [table]), axis))
    nibabel.save(cifti2.Cifti2Image(labels, header), folder / "c.dlabel.nii")


def write_hemispheres(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for side, short in (("L", "lh"), ("R", "rh")):
        data = rng.normal(size=(3, N)).astype(np.float32)
        write_gifti(folder / f"g_hemi-{side}.func.gii", data, tr_ms=720)
        write_gifti(folder / f"h_hemi-{side}.func.gii", data, one_array=True)
        write_mgz(folder / f"m.{short}.mgz", data, 720.0)
        image = nibabel.Nifti1Image(data.T[:, None, None, :], np.eye(4))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, folder / f"n.{short}.nii.gz")


def write_labels(folder: Path) -> None:
    keys = (np.arange(N) % 3).astype(np.int32)
    for side, short in (("L", "lh"), ("R", "rh")):
        array = gifti.GiftiDataArray(keys, "NIFTI_INTENT_LABEL")
        table = gifti.GiftiLabelTable()
        for key, name in enumerate(("???", "A", "B")):
            label = gifti.GiftiLabel(key, key / 3, 0, 0, 1)
            label.label = name
            table.labels.append(label)
        nibabel.save(
            gifti.GiftiImage(darrays=[array], labeltable=table), folder / f"a.{side}.label.gii"
        )
        colours = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 1], [0, 1, 0, 0, 256]])
        freesurfer.write_annot(folder / f"{short}.x.annot", keys, colours, ["unknown", "A", "B"])


def write_flat_surfaces(folder: Path) -> None:
    x, y = np.meshgrid(np.arange(4.0), np.arange(3.0))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1).astype(np.float32)
    corners = [(i, i + 1, i + 4) for i in (0, 1, 2, 4, 5, 6)]
    corners += [(i + 1, i + 5, i + 4) for i in (0, 1, 2, 4, 5, 6)]
    for side in ("left", "right"):
        arrays = [
            gifti.GiftiDataArray(points, "NIFTI_INTENT_POINTSET"),
            gifti.GiftiDataArray(np.array(corners, np.int32), "NIFTI_INTENT_TRIANGLE"),
        ]
        nibabel.save(gifti.GiftiImage(darrays=arrays), folder / f"{side}.surf.gii")
        roi = np.ones((1, N), np.float32)
        write_gifti(folder / f"roi_{side}.func.gii", roi)


def write_volume(folder: Path) -> None:
    affine = np.diag([40.0, 40, 40, 1])
    affine[:3, 3] = (-90, -126, -72)
    data = np.random.default_rng(0).normal(size=(4, 5, 4, 2)).astype(np.float32)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.0
    nibabel.save(image, folder / "run.nii.gz")
    nibabel.save(nibabel.Nifti1Image((data[..., 0] > 0).astype(np.uint8), affine), folder / "m.nii")


def write_tables(folder: Path) -> None:
    texts = {
        "events.tsv": "onset\tduration\ttrial_type\tvalue\n1.5\t2\ta\t1\n4\tn/a\tb b\t2.5\n",
        "participants.tsv": "participant_id\tage\tsex\nsub-01\t30\tF\nsub-02\tn/a\tM\n",
        "confounds.tsv": "trans_x\tframewise_displacement\tcsf\n0\tn/a\t1\n0.1\t0.2\t2\n0\t1\t3\n",
        "values.csv": 'subject,session,"score"\n01,1,0.5\n02,1,"a,b"\n03,2,n/a\n',
        "points.csv": "set,loss,frames,draw\nhcp,0.5,1000,1\nhcp,0.4,2000,2\nhcp,0.3,4000,1\n",
        "words.txt": "01\n02\n03\n",
        "families.csv": "Subject,Family_ID\n1,a\n2,b\n",
        "trials.csv": "sub,ses,run,onset,nsd_id,trial_id,category_id\n1,1,1,0.5,3,0,4\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    sidecar = {"RepetitionTime": 2.0, "SliceTiming": [0.0, 1.0], "SliceTimingCorrected": True}
    maps = {"labels": {"1": "a", "2": "b"}}
    batches = [{"subject": "1", "batch": 3}, {"subject": "2", "batch": 4}]
    joined = {"01": 1, "02": "x", "03": None}
    for name, value in (
        *(("sidecar.json", sidecar), ("map.json", maps), ("batches.json", batches)),
        ("join.json", joined),
    ):
        (folder / name).write_text(json.dumps(value, indent=1))
    np.save(folder / "rows.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    np.savez(folder / "components.npz", components=np.ones((2, 8, 8), np.float32))


def write_shards(folder: Path) -> None:
    older, newer = published_shards.older, published_shards.newer
    published_shards.write_shard(folder / "old.tar", {x: older(x, 6) for x in ("s-01", "s-02")})
    published_shards.write_shard(folder / "new.tar", {x: newer(x, 6, 30) for x in ("s-03", "s-04")})
    data = (folder / "new.tar").read_bytes()
    (folder / "packed.tar.gz").write_bytes(gzip.compress(data, 1, mtime=0))


def write_clips(folder: Path) -> None:
    import torch

    mask = geometry().mask
    for i in range(2):
        image = torch.randn(4, *mask.shape).to(torch.float16) * torch.from_numpy(mask)
        clip = {"image": image, "__key__": "k", "start": torch.tensor(16 * i), "sub": "01"}
        torch.save(clip | {"task": "rest", "target": 1}, folder / f"{i}.pt")


def write_arrow(folder: Path) -> None:
    import pyarrow as pa

    from tests.data_tools.published import arrow_folders as ours

    feature = {"_type": "ClassLabel", "names": ["no", "yes"]}
    metadata = {b"huggingface": json.dumps({"info": {"features": {"dx": feature}}}).encode()}
    rows = [row | {"n_frames": 3} for row in ours.runs((1, 2))]
    for row in rows:
        row["bold"] = row["bold"][:3]
    columns = ours.RUN_COLUMNS
    schema = ours.schema(columns, metadata)
    arrays = [pa.array([row[name] for row in rows], kind) for name, kind in columns.items()]
    arrays.append(pa.array([row["tr"] for row in rows], pa.float32()))
    arrays += [
        ours.matrices(rows, name, dtype)
        for name, dtype in (("bold", np.float16), ("mean", np.float32), ("std", np.float32))
    ]
    batch = pa.record_batch(arrays, schema=schema)
    for split, new in (("train", pa.ipc.new_stream), ("test", pa.ipc.new_file)):
        (folder / "data" / split).mkdir(parents=True)
        with new(folder / "data" / split / "data-0.arrow", schema) as writer:
            writer.write_batch(batch[:1])
            writer.write_batch(batch[1:])
        state = {"_data_files": [{"filename": "data-0.arrow"}]}
        (folder / "data" / split / "state.json").write_text(json.dumps(state))
    (folder / "data" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))


def write_split(folder: Path) -> None:
    split = {
        "about": "a split",
        "target": "event:trial_type",
        "clip": {"frames": 4, "tr": 1.0},
        "derived": {"batch": {"subject": "0?([0-9]+)"}},
        "runs": {"task": ["rest", "WM"]},
        "complete": {"task": ["rest"]},
        "splits": {"train": {"batch": ["0-1"]}, "test": [{"batch": ["2"]}, {"batch": ["3"]}]},
        "expected": {"runs": {"train": 2}, "classes": 1},
        "labels": {"a": "left"},
    }
    (folder / "split.json").write_text(json.dumps(split, indent=1))


def write_runs(folder: Path) -> None:
    for i in range(2):
        scores = {"eval/a/loss": 0.5 + i / 10, "eval/b/loss": 0.6}
        run = write_run(folder / f"run{i}", scores, seed=i, batch_size=2)
        write_probe(run / "probes" / "p", 0.7)
        sizes = {"params": 10, "encoder_params": 5, "flops_per_clip": 2.0}
        sizes |= {"train": {"frames": 100, "runs": 1, "subjects": 1, "datasets": ["x"]}}
        sizes |= {"eval": {"a": ["x"], "b": ["y"]}}
        start = {"time": "t", "command": "c", "sizes": sizes, "stores": {}, "config": {}}
        (run / "provenance.json").write_text(json.dumps({"version": 1, "starts": [start]}))


def write_sweep(folder: Path) -> None:
    from fmrifm.sweep.ledger import open_ledger
    from fmrifm.sweep.sweep_file import Experiment, Sweep

    workdir = folder / "sweep"
    points = [
        Experiment(f"p{i}", {"seed": i}, str(workdir / f"p{i}"), [["-c", "pass"]]) for i in range(2)
    ]
    workdir.mkdir()
    ledger = open_ledger(Sweep("fake.py", points, ["table"]), workdir)
    ledger.note("p0", status="done", returncode=0, done=[["-c", "pass"]], directory="/x")
    ledger.note("p1", status="failed", returncode=1, error="bad", directory="/x")
    (workdir / "p0" / "metrics.jsonl").write_text('{"step": 1, "eval/a/loss": 0.5}\n')


def write_results(folder: Path) -> None:
    shutil.copytree(ROOT / "tests" / "version_0_1" / "probe", folder / "probe")
    predictions = {
        "key": np.array(["a", "b"]),
        "start": np.array([0, 16]),
        "split": np.array(["test", "test"]),
        "target": np.array(["x", "y"]),
        "prediction": np.array(["x", "x"]),
    }
    np.savez(folder / "probe" / "predictions_avg_patch_knn.npz", **predictions)
