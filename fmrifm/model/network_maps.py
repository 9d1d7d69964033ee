"""Network maps: what a linear model knows of a masked frame, for the network to go on from.

A frame is modelled as mean + maps' u + white noise with standard normal codes u, one for each map
(probabilistic PCA; Tipping & Bishop 1999, J. R. Stat. Soc. B 61, 611-622). The codes of a masked
frame are their posterior mean given its visible pixels: with A the maps there and r the values
less the mean, they solve (A A' / noise + 1) u = A r / noise.

On a flat map a patch is always the same piece of cortex, so that maps say what each place does with
the others. A transformer learns that slowly, as its tokeniser and its head are the same everywhere.

Letters: B clips, M tokens of N patches in S time slots, L visible tokens, t frames of a
token, P pixels of a patch, V values of a token, W values predicted for it, K maps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from data_tools.spaces.geometry import Geometry
from fmrifm.model.attention import dividing
from fmrifm.model.options import ModelOptions


class NetworkMaps(NamedTuple):
    """The Gaussian model of a frame, on the patches of a geometry.

    Attributes:
      mean_NxP: float32.
      maps_NxKxP: float32; their products summed over maps are the covariance.
      noise: variance of what the maps leave, float32 scalar.
    """

    mean_NxP: jax.Array
    maps_NxKxP: jax.Array
    noise: jax.Array


class VisibleSums(NamedTuple):
    """Sums over the visible pixels of a clip that determine its codes."""

    gram_SxKxK: jax.Array  # A A'
    right_SxKxt: jax.Array  # A r


def empty_maps(options: ModelOptions) -> dict[str, jax.Array]:
    """Parameters that know nothing: `maps` (K, H, W), `mean` (H, W) and `noise` (1,)."""
    shape = options.frame_shape
    maps = jnp.zeros((options.network_maps, *shape))
    return {"maps": maps, "mean": jnp.zeros(shape), "noise": jnp.ones(1)}


def maps_on(params: dict[str, jax.Array], geometry: Geometry) -> NetworkMaps:
    """The maps of a model's parameters on the patches of a geometry: given, not learned."""
    params = jax.lax.stop_gradient(params)
    maps_NxKxP = jnp.swapaxes(geometry.to_patches(params["maps"]), 0, 1)
    return NetworkMaps(geometry.to_patches(params["mean"]), maps_NxKxP, params["noise"][0])


def sum_visible(
    maps: NetworkMaps, values_MxV: jax.Array, shown_MxV: jax.Array, visible_L, options: ModelOptions
) -> VisibleSums:
    """Sums over the visible pixels of one clip.

    Args:
      values_MxV, shown_MxV: of all tokens: values, and whether they are data that may be seen.
      visible_L: indices of visible tokens; M or more is no token.
    """
    o, (n, rank, pixels) = options, maps.maps_NxKxP.shape
    values_MxtxP = values_MxV.reshape(-1, o.t_patch, pixels)
    # Whether a pixel has data does not change within a clip.
    shown_MxP = shown_MxV.reshape(values_MxtxP.shape)[:, 0]

    def see(sums: VisibleSums, token) -> tuple[VisibleSums, None]:
        there, token = token < n * o.slots, jnp.minimum(token, n * o.slots - 1)
        slot, patch = token // n, token % n
        a_KxP = maps.maps_NxKxP[patch] * (shown_MxP[token] & there)
        left_txP = values_MxtxP[token] - maps.mean_NxP[patch]
        with jax.default_matmul_precision("highest"):  # else accelerators multiply with fewer bits
            gram_KxK, right_Kxt = a_KxP @ a_KxP.T, a_KxP @ left_txP.T
        gram_SxKxK = sums.gram_SxKxK.at[slot].add(gram_KxK)
        return VisibleSums(gram_SxKxK, sums.right_SxKxt.at[slot].add(right_Kxt)), None

    sizes = (o.slots, rank, rank), (o.slots, rank, o.t_patch)
    return jax.lax.scan(see, VisibleSums(*map(jnp.zeros, sizes)), visible_L)[0]


def posterior_codes(sums: VisibleSums, noise: jax.Array) -> jax.Array:
    """(S, t, K) posterior mean of the codes."""
    matrix = sums.gram_SxKxK / noise + jnp.eye(sums.gram_SxKxK.shape[-1])
    factor = jnp.linalg.cholesky(matrix), True
    codes_SxKxt = jax.scipy.linalg.cho_solve(factor, sums.right_SxKxt / noise)
    return jnp.swapaxes(codes_SxKxt, 1, 2)


def find_codes(
    maps: NetworkMaps, values_BxMxV, shown_BxMxV, visible_BxL, options: ModelOptions
) -> jax.Array:
    """(B, S, t, K) posterior codes of clips; arguments as of `sum_visible`, for each clip."""

    def one(maps: NetworkMaps, *clip) -> jax.Array:
        return posterior_codes(sum_visible(maps, *clip, options), maps.noise)

    find = jax.vmap(one, (None, 0, 0, 0))
    if not jax.sharding.get_abstract_mesh().empty:  # the compiler cannot split what is solved
        rows = PartitionSpec(dividing(nn.logical_to_mesh_axes(("batch",))[0], len(values_BxMxV)))
        specs = (PartitionSpec(), rows, rows, rows)
        find = jax.shard_map(find, in_specs=specs, out_specs=rows, check_vma=False)
    clips = map(jax.lax.stop_gradient, (values_BxMxV, shown_BxMxV, visible_BxL))
    return find(maps, *clips)


def predict(maps: NetworkMaps, codes_BxSxtxK: jax.Array, options: ModelOptions) -> jax.Array:
    """(B, M, W): the linear prediction of every token, in the frames that are predicted."""
    codes = codes_BxSxtxK[:, :, :: options.t_pred_stride]
    frames = jnp.einsum("bstk,nkp->bsntp", codes, maps.maps_NxKxP) + maps.mean_NxP[:, None]
    return frames.reshape(len(codes), -1, options.target_dim)
