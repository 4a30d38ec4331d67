"""Trains the demo model on fresh synthetic conversations for a budget of wall-clock minutes, on CPU.

    python train.py --tokenizer models/demo/tokenizer.json --out /tmp/demo --minutes 70
    python train.py ... --resume /tmp/demo/last.pt --minutes 12 --phase long --peak 0.2

One conversation per row, made exactly as long as the row. Forward and backward run in BF16; the optimiser keeps FP32
masters: Muon (orthogonalised momentum) for the matrices of the layers, AdamW for the embedding and the norms. Two
processes of one thread each share a step and meet once or twice per step, which suffers less from busy cores than two
threads that meet in every operation. The schedules of length and learning rate go by the share of the budget that has passed.
"""
import argparse
import json
import math
import os
import pathlib
import time
from dataclasses import asdict

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer

from model import DemoModel, Shape
from rows import Rows

# (share of the budget at which the phase ends, tokens per row, rows per step and process, loss on the user's tokens)
PHASES = {"full": [(0.3, 256, 8, 0.1), (0.58, 512, 4, 0.02), (0.8, 1024, 2, 0.0), (1.0, 1536, 2, 0.0)], "long": [(1.0, 1536, 2, 0.0)],
          "polish": [(0.4, 512, 4, 0.0), (1.0, 1536, 2, 0.0)],
          "middle": [(0.33, 512, 4, 0.0), (0.62, 1024, 2, 0.0), (1.0, 1536, 2, 0.0)],
          "short": [(1.0, 256, 8, 0.1)]}
PROCESSES = 2


def batch(source: Rows, rows: int, length: int, user_weight: float):
    made = [source.row(length, user_weight) for _ in range(rows)]
    return torch.tensor([row.ids[:length + 1] for row in made]), torch.tensor([row.weights[:length + 1] for row in made])


@torch.no_grad()
def orthogonalised(gradient: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """The nearest semi-orthogonal matrices of a stack, roughly, by the quintic Newton-Schulz iteration of the Muon optimiser (K. Jordan, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient.bfloat16()
    transposed = x.shape[-2] > x.shape[-1]
    x = x.mT if transposed else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return (x.mT if transposed else x).float()


class Optimiser:
    """FP32 masters of BF16 parameters; Muon for matrices of the layers (unless `adam_only`), AdamW for the rest."""

    def __init__(self, model: DemoModel):
        self.parameters = dict(model.named_parameters())
        self.master = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        self.first = {name: torch.zeros_like(m) for name, m in self.master.items()}
        self.second = {name: torch.zeros_like(m) for name, m in self.master.items()}
        self.matrices = {n for n, m in self.master.items() if m.dim() == 2 and "embed" not in n}
        self.groups = {}                                     # matrices of one shape are orthogonalised as one stack
        for name in sorted(self.matrices):
            self.groups.setdefault(tuple(self.master[name].shape), []).append(name)
        self.steps = 0

    @torch.no_grad()
    def step(self, share: float, passed: float) -> tuple[float, float]:
        """`share` is the learning rate relative to its peak; gives the norm of the gradient, and what the first process says has passed."""
        self.steps += 1
        rank, names = dist.get_rank(), list(self.parameters)
        flat = torch.cat([self.parameters[n].grad.float().flatten() for n in names] + [torch.tensor([0.0 if rank else passed * PROCESSES])])
        dist.all_reduce(flat)
        flat /= PROCESSES
        sizes = [self.master[n].numel() for n in names]
        gradients = {n: part.view(self.master[n].shape) for n, part in zip(names, flat[:-1].split(sizes))}
        norm = flat[:-1].norm().item()
        clip = min(1.0, 1.0 / (norm + 1e-6))
        matrices = sorted(self.matrices)                       # each process works out every second matrix
        updates = torch.zeros(sum(self.master[n].numel() for n in matrices))
        parts = {n: part.view(self.master[n].shape) for n, part in zip(matrices, updates.split([self.master[n].numel() for n in matrices]))}
        for (height, width), group in self.groups.items():
            mine = group[rank::PROCESSES]
            nesterov = torch.stack([gradients[n].lerp(self.first[n].lerp_(gradients[n], 0.05), 0.95) for n in mine])
            for n, update in zip(mine, orthogonalised(nesterov)):
                parts[n].copy_(update * max(1.0, height / width) ** 0.5)
        dist.all_reduce(updates)
        for n, update in parts.items():
            self.master[n].mul_(1 - 0.01 * 0.05 * share).add_(update, alpha=-0.012 * share)
        for n in self.master.keys() - self.matrices:
            g, master = gradients[n] * clip, self.master[n]
            m, v = self.first[n].lerp_(g, 0.1), self.second[n].lerp_(g * g, 0.03)
            update = (m / (1 - 0.9 ** self.steps)) / ((v / (1 - 0.97 ** self.steps)).sqrt() + 1e-8)
            if master.dim() == 2:
                master.mul_(1 - 3e-3 * 0.05 * share)
            master.add_(update, alpha=-3e-3 * share)
        for n, parameter in self.parameters.items():
            parameter.copy_(self.master[n])
            parameter.grad = None
        return norm, flat[-1].item()


def save(path: pathlib.Path, optimiser: Optimiser, shape: Shape, tokens: int, minutes: float) -> None:
    torch.save({"master": optimiser.master, "first": optimiser.first, "second": optimiser.second, "steps": optimiser.steps,
                "shape": asdict(shape), "tokens": tokens, "minutes": minutes}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def train(rank: int, arguments: argparse.Namespace) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(arguments.port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(arguments.seed)
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    shape = Shape(vocabulary=tokenizer.get_vocab_size())
    model = DemoModel(shape)
    tokens, minutes_before, saved = 0, 0.0, None
    if arguments.resume:
        saved = torch.load(arguments.resume, weights_only=True)
        model.load_state_dict(saved["master"])
        tokens, minutes_before = saved["tokens"], saved["minutes"]
    optimiser = Optimiser(model)
    if saved:
        optimiser.master, optimiser.first, optimiser.second, optimiser.steps = saved["master"], saved["first"], saved["second"], saved["steps"]
    model.to(torch.bfloat16)
    source = Rows(tokenizer, arguments.seed + PROCESSES * optimiser.steps + rank)
    run = model if arguments.no_compile else torch.compile(model, dynamic=False)

    start = last_report = last_save = time.time()
    step, mean_loss, since, passed = 0, None, 0, 0.0
    while passed < 1:
        _, length, count, user_weight = next(p for p in PHASES[arguments.phase] if passed < p[0])
        ids, weights = batch(source, count, length, user_weight)
        losses = F.cross_entropy(run(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        weight = weights[:, 1:].flatten()
        ((losses * weight).sum() / weight.sum()).backward()
        rate = arguments.peak * min(1.0, (step + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * passed)))
        norm, passed = optimiser.step(rate, (time.time() - start) / 60 / arguments.minutes)
        value = losses.detach()[weight >= 1].mean().item()
        mean_loss = value if mean_loss is None else 0.97 * mean_loss + 0.03 * value
        made, now = PROCESSES * count * length, time.time()
        step, tokens, since = step + 1, tokens + made, since + made
        if rank == 0 and now - last_report > 15:
            print(json.dumps({"minutes": round((now - start) / 60, 2), "step": step, "length": length, "loss": round(mean_loss, 4), "norm": round(norm, 3),
                              "rate": round(rate, 4), "million_tokens": round(tokens / 1e6, 3), "tokens_per_s": round(since / (now - last_report))}), flush=True)
            last_report, since = now, 0
        if rank == 0 and (now - last_save > 120 or passed >= 1):
            save(arguments.out / "last.pt", optimiser, shape, tokens, minutes_before + (now - start) / 60)
            last_save = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="models/demo/tokenizer.json")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--phase", choices=list(PHASES), default="full")
    parser.add_argument("--peak", type=float, default=1.0, help="learning rate at the start, relative to the usual peak")
    parser.add_argument("--resume", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=29500, help="a free port of this machine, for the processes to meet")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(train, (arguments,), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
