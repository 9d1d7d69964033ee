"""A step of 49 attentive heads: one batched computation beside a loop over PyTorch modules.

    python -m tests.benchmarks.probe_heads [--samples=64 --tokens=196 --width=768 --repeats=5]

The loop projects keys and values of every token for each head, as published evaluations do. Needs
torch. Prints medians and ranges, both sides in turn, and the largest difference of gradients.
"""

import argparse
import os
import statistics
import time

import jax
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from fmrifm.probe.heads import grid
from fmrifm.probe.heads.heads import HEAD_WIDTH, init_head
from fmrifm.probe.heads.settings import GridSettings, head_rates, lr_schedule

N_CLASSES, N_HEADS = 21, 49


class Attentive(torch.nn.Module):
    """One learned query, keys and values of every token."""

    def __init__(self, params: dict):
        super().__init__()
        width, inner = params["kv"]["kernel"].shape[0], len(params["query"])
        self.query = torch.nn.Parameter(torch.tensor(params["query"]))
        self.kv = torch.nn.Linear(width, 2 * inner)
        self.out = torch.nn.Linear(inner, N_CLASSES)
        for layer, name in ((self.kv, "kv"), (self.out, "out")):
            layer.weight.data = torch.tensor(params[name]["kernel"].T.copy())
            layer.bias.data = torch.tensor(params[name]["bias"])

    def forward(self, x):
        batch, tokens = x.shape[:2]
        k, v = self.kv(x).view(batch, tokens, 2, -1, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        query = self.query.view(1, -1, 1, HEAD_WIDTH).expand(batch, -1, -1, -1)
        pooled = F.scaled_dot_product_attention(query, k, v)
        return self.out(pooled.reshape(batch, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("samples", 64), ("tokens", 196), ("width", 768), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(args.samples, args.tokens, args.width)).astype(np.float32)
    labels = rng.integers(N_CLASSES, size=args.samples)
    settings = GridSettings(batch_size=args.samples)
    params = jax.device_get(init_head("attn", jax.random.key(0), args.width, N_CLASSES))
    ours, theirs = _ours(params, x, labels, settings), _theirs(params, x, labels, settings)
    times = [(_timed(ours), _timed(theirs)) for _ in range(args.repeats + 1)][1:]
    print(f"{N_HEADS} attentive heads, {x.shape}, {os.cpu_count()} cores, {args.repeats} repeats")
    for name, side in zip(("fmrifm", "loop over modules"), zip(*times, strict=True), strict=True):
        middle, low, high = statistics.median(side), min(side), max(side)
        print(f"{name:<18} {middle:8.3f} s a step ({low:.3f} to {high:.3f})")
    print(f"ratio of medians   {statistics.median(b / a for a, b in times):8.1f}")
    print(
        f"largest difference of gradients, relative: {_difference(params, x, labels, settings):.1e}"
    )


def _timed(step) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def _batch(x, labels):
    keep, weight = np.ones(x.shape[:2], bool), np.full(len(x), 1 / len(x), np.float32)
    return {"x": x, "keep": keep, "target": labels, "weight": weight}


def _ours(params, x, labels, settings):
    gradients, update = grid._programs("attn", settings)
    stacked = jax.tree.map(lambda p: np.repeat(p[None], N_HEADS, 0), params)
    rates, decays = head_rates(settings)
    alive = np.ones(N_HEADS, bool)
    state = grid.GridState(stacked, grid._ADAM.init(stacked), alive, np.int32(0))
    held = [jax.device_put(state)]
    batch, schedule = _batch(x, labels), lr_schedule(settings, settings.updates).astype(np.float32)

    def step():
        sums = gradients(held[0].params, batch, jax.random.key(0), None)
        held[0] = jax.block_until_ready(update(held[0], sums, schedule, rates, decays, 1e9))

    return step


def _theirs(params, x, labels, settings):
    heads = [Attentive(params) for _ in range(N_HEADS)]
    rates = settings.lr * np.array(settings.lr_multipliers)
    optimizers = [
        torch.optim.AdamW(head.parameters(), lr=float(lr), weight_decay=0.05)
        for head, lr in zip(heads, rates, strict=True)
    ]
    x, labels = torch.tensor(x), torch.tensor(labels)

    def step():
        for head, optimizer in zip(heads, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(head(x), labels).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), settings.clip_norm)
            optimizer.step()

    return step


def _difference(params, x, labels, settings) -> float:
    gradients, _ = grid._programs("attn", settings)
    one = jax.tree.map(lambda p: p[None], params)
    _, ours = gradients(one, _batch(x, labels), jax.random.key(0), None)
    head = Attentive(params)
    F.cross_entropy(head(torch.tensor(x)), torch.tensor(labels)).backward()
    pairs = [(ours["query"][0], head.query.grad), (ours["kv"]["kernel"][0].T, head.kv.weight.grad)]
    pairs += [(ours["out"]["kernel"][0].T, head.out.weight.grad)]
    return max(float(np.abs(a - b.numpy()).max() / b.abs().max()) for a, b in pairs)


if __name__ == "__main__":
    main()
