"""Inputs that somebody could make on purpose: little files that ask for much, or lead elsewhere."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable

import nibabel
import numpy as np

from tests.data_tools.published.published_shards import newer
from tests.reliability.samples import columns_geometry


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npy_of_shape(*shape: int) -> bytes:
    """A header that promises an array of floats, and no data."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _geometry_with(**arrays: bytes) -> bytes:
    """A geometry with other members, packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(columns_geometry().to_bytes())) as whole:
        members = {info.filename: whole.read(info) for info in whole.infolist()}
    members |= {f"{name}.npy": data for name, data in arrays.items()}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _tar(members: dict[str, bytes], **fields) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), dict(fields)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _run(key: str) -> dict[str, bytes]:
    return {f"{key}.{suffix}": data for suffix, data in newer("s-03", 6, 30).items()}


def sparse_tar() -> bytes:
    """Members that are said to have holes of 3 GB."""
    size = str(3 * 2**30)
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,8"}
    sparse |= {"GNU.sparse.size": size, "GNU.sparse.numblocks": "1"}
    return _tar(_run("a"), **sparse)


def long_header_tar() -> bytes:
    """A name of 768 MB, packed."""
    data = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 12 * 2**26
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(12):
            file.write(b"a" * 2**26)
        file.write(data)
    return packed.getvalue()


def mask_of_zeros() -> bytes:
    """A mask of 500 MB that is packed into 2 MB."""
    return _geometry_with(mask=_npy(np.zeros((22_400, 22_400), bool)))


def large_volume() -> bytes:
    """A NIfTI header that promises 32,767 frames of a large grid, and none of them."""
    header = bytearray(
        nibabel.Nifti1Image(np.zeros((4, 5, 4, 2), np.float32), np.eye(4)).to_bytes()
    )
    header[40:56] = struct.pack("<8h", 4, 300, 300, 300, 32767, 1, 1, 1)
    return gzip.compress(bytes(header), 1, mtime=0)


def many_vertices() -> bytes:
    """An `.annot` of 2**31 - 1 vertices, without them."""
    return struct.pack(">i", 2**31 - 1) + bytes(64)


def repeated_tensor() -> bytes:
    """A clip whose image is one number, said to be there 2**33 times."""
    import torch

    buffer = io.BytesIO()
    image = torch.zeros(1).expand(2**27, 8, 8)
    torch.save({"image": image, "start": 0}, buffer)
    return buffer.getvalue()


def repeated_weights() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(1).expand(2**31)}, "args": {}}, buffer)
    return buffer.getvalue()


def large_safetensors() -> bytes:
    """A tensor that is said to be larger than the file."""
    header = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def outside_tar() -> bytes:
    return _tar(_run("../../evil"))


# What it is: the reader, the file in its folder, and how to make the bytes.
HOSTILE: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "sparse members": ("shards", "new.tar", sparse_tar),
    "long header": ("shards", "packed.tar.gz", long_header_tar),
    "names that lead out": ("import shards", "new.tar", outside_tar),
    "mask of zeros": ("geometry", "a.npz", mask_of_zeros),
    "mask without data": (
        *("geometry", "a.npz"),
        lambda: _geometry_with(mask=_npy_of_shape(2**20, 2**20)),
    ),
    "large volume": ("volumes", "run.nii.gz", large_volume),
    "many vertices": ("labels", "lh.x.annot", many_vertices),
    "repeated tensor": ("clips", "0.pt", repeated_tensor),
    "repeated weights": ("pickle", "model.pth", repeated_weights),
    "large tensor": ("published", "model.safetensors", large_safetensors),
    "rows without data": ("tables", "rows.npy", lambda: _npy_of_shape(2**40)),
    "nested JSON": ("sweep", "sweep/sweep.json", lambda: b"[" * 1_000_000),
    "nested options": ("published", "config.json", lambda: b'{"a":' * 100_000),
    "large number": ("split", "split.json", lambda: b'{"about": ' + b"9" * 100_000 + b"}"),
}
