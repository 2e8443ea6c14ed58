"""Losses: pure functions of what the network gave out, `[T, batch, classes]`, and of the right answers, `targets [batch]`.

    ce_rate_loss            mean_t CE(spk[t], y)                      the class fires in every step
    ce_count_loss           CE(sum_t spk[t], y)                       the class fires most often
    ce_max_membrane_loss    CE(max_t mem[t], y)                       the class's membrane goes highest
    mse_count_loss          MSE(sum_t spk[t], n) / T                  n spikes: T correct_rate, or T incorrect_rate
    mse_membrane_loss       mean_t MSE(mem[t], u)                     u = on_target, or off_target
    mse_temporal_loss       MSE(time(spk) / T, s / T)                 the class fires first at s = on_target, the others at off_target
    ce_temporal_loss        CE(-time(spk), y)                         the class fires first
    l1_rate_sparsity        Lambda sum spk                            a regulariser: few spikes

CE is the cross entropy with softmax, MSE the mean square error over samples and classes. Each works under grad, vmap and jvp.
The batch may have any number of axes, or none (so `vmap(grad(loss), in_dims=(1, 0))` gives each sample's gradient).

Common options, as in `snntorch.functional` 1.0.0, whose names, order, defaults and numbers these are:

    reduction          "mean", "sum" or "none" (one loss a sample, for MSE one a sample and class)
    weight             (classes,): each sample's loss is multiplied by the weight of its class, before the mean
    population_code    with `num_classes`: each class has a group of neurons, whose spikes are summed

Padded sequences: no loss takes lengths. Outputs of `masked` are 0 behind a sample's end, so losses of counts (`ce_count_loss`,
`l1_rate_sparsity`) are right as they are; a mean over each sample's own steps, of spikes or membranes, is
`torch.nn.functional.cross_entropy(snf.train.scores(spks, lengths), targets)`, with `masked` or without.

All raise TypeError for outputs that are no floating tensor and targets that are no integer one, and ValueError for an empty time
axis, for targets that are not one a sample or not a class, and for options that cannot be right.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._names import show as _show
from .metrics import check_output, classes, pooled, spike_times


CHOICES = {"reduction": ("mean", "sum", "none"), "inverse": ("negate", "reciprocal")}


def ce_rate_loss(
    spk_out: Tensor,
    targets: Tensor,
    *,
    population_code: bool = False,
    num_classes: int | bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the spikes of each step, averaged over time: the right class is to fire in every step.

    loss = mean_t CE(spk_out[t], targets)

    snnTorch 1.0.0 crashes here with `population_code=True`, and does not pool; here the groups are pooled in each step.
    """
    choose("ce_rate_loss", reduction=reduction)
    spk = pooled("ce_rate_loss", check_output("ce_rate_loss", spk_out), population_code, num_classes)
    y = classes("ce_rate_loss", spk[0], targets, len(spk))
    loss = _cross_entropy(spk, y.expand(len(spk), *y.shape), _weights("ce_rate_loss", weight, spk))
    return _reduced(loss.sum(0), reduction) / len(spk)


def ce_count_loss(
    spk_out: Tensor,
    targets: Tensor,
    *,
    population_code: bool = False,
    num_classes: int | bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the spike counts: the right class is to fire most often.

    loss = CE(sum_t spk_out[t], targets)
    """
    choose("ce_count_loss", reduction=reduction)
    counts = pooled("ce_count_loss", check_output("ce_count_loss", spk_out), population_code, num_classes).sum(0)
    y = classes("ce_count_loss", counts, targets, len(spk_out))
    return _reduced(_cross_entropy(counts, y, _weights("ce_count_loss", weight, counts)), reduction)


def ce_max_membrane_loss(
    mem_out: Tensor, targets: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Cross entropy of the highest membrane of each neuron, whenever that is; the gradient reaches that step alone.

    loss = CE(max_t mem_out[t], targets)

    Zenke's SpyTorch.
    """
    choose("ce_max_membrane_loss", reduction=reduction)
    highest = check_output("ce_max_membrane_loss", mem_out).max(0).values
    y = classes("ce_max_membrane_loss", highest, targets, len(mem_out))
    return _reduced(_cross_entropy(highest, y, _weights("ce_max_membrane_loss", weight, highest)), reduction)


def mse_count_loss(
    spk_out: Tensor,
    targets: Tensor,
    *,
    correct_rate: float = 1,
    incorrect_rate: float = 0,
    population_code: bool = False,
    num_classes: int | bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Square error of the spike counts: the right class is to fire in a share `correct_rate` of the steps, the others `incorrect_rate`.

        loss = MSE(sum_t spk_out[t], n) / T
        n    = floor(T rate N)               N neurons a class: 1, or the size of a group

    Shrestha & Orchard 2018 (SLAYER), arXiv:1810.08646.
    """
    choose("mse_count_loss", reduction=reduction)
    out, (on, off) = check_output("mse_count_loss", spk_out), (correct_rate, incorrect_rate)
    if not (0 <= on <= 1 and 0 <= off <= 1):
        raise ValueError(
            f"mse_count_loss(correct_rate={on}, incorrect_rate={off}): expected shares of the steps, numbers in [0, 1]."
        )
    counts = pooled("mse_count_loss", out, population_code, num_classes).sum(0)
    T, group = len(out), out.size(-1) / counts.size(-1)
    y = classes("mse_count_loss", counts, targets, T)
    goal = _goal(y, counts, int(T * on * group), int(T * off * group))
    return _square_error(counts, goal, y, _weights("mse_count_loss", weight, counts), reduction) / T


def mse_membrane_loss(
    mem_out: Tensor,
    targets: Tensor,
    *,
    time_var_targets: bool = False,
    on_target: float = 1,
    off_target: float = 0,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Square error of the membrane in every step: the right class's is to stay at `on_target`, the others' at `off_target`.

        loss = mean_t MSE(mem_out[t], on_target at the right class, off_target elsewhere)

    With `time_var_targets=True` the right class changes: `targets [T, batch, ...]`, or `[T]` for the whole batch.
    For potentials of your own: `torch.nn.functional.mse_loss(mem_out, potentials)`.
    """
    name = "mse_membrane_loss"
    choose(name, reduction=reduction)
    mem = check_output(name, mem_out)
    if time_var_targets and isinstance(targets, Tensor):
        if targets.dim() == 1:
            targets = targets.view(-1, *[1] * (mem.dim() - 2)).expand(-1, *mem.shape[1:-1])
        y = classes(name, mem, targets)
    else:
        y = classes(name, mem[0], targets, len(mem))
    y = y.expand(mem.shape[:-1])
    goal = _goal(y, mem, on_target, off_target)
    loss = _square_error(mem, goal, y, _weights(name, weight, mem), "none").mean(0)
    return _reduced(loss, reduction)


def mse_temporal_loss(
    spk_out: Tensor,
    targets: Tensor,
    *,
    target_is_time: bool = False,
    on_target: Any = 0,
    off_target: Any = -1,
    tolerance: float = 0,
    multi_spike: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Square error of the times of the first spikes, in units of T. The options and the gradient are those of `spike_time`.

    loss = MSE(time(spk_out) / T, goal / T)
    """
    name = "mse_temporal_loss"
    choose(name, reduction=reduction)
    weight = _weights(name, weight, spk_out)
    if target_is_time and weight is not None:
        raise ValueError(f"{name}(target_is_time=True, weight=...): a weight belongs to a class, and times name none.")
    times, goal = _timed(name, spk_out, targets, target_is_time, on_target, off_target, tolerance, multi_spike)
    return _square_error(times / len(spk_out), goal / len(spk_out), targets.long(), weight, reduction)


def ce_temporal_loss(
    spk_out: Tensor,
    targets: Tensor,
    *,
    inverse: str = "negate",
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the inverted time of the first spike: the right class is to fire first.

        loss = CE(-time(spk_out), targets)                 "negate"
               CE(1 / (time(spk_out) + 1), targets)        "reciprocal"

    The gradient is that of `snf.metrics.spike_times`. With `weight`, "mean" divides by the sum of the samples' weights, as torch's
    cross entropy does and the other losses here do not: so does snnTorch 1.0.0.
    """
    choose("ce_temporal_loss", inverse=inverse, reduction=reduction)
    time = spike_times(check_output("ce_temporal_loss", spk_out))[0]
    y, weight = classes("ce_temporal_loss", time, targets, len(spk_out)), _weights("ce_temporal_loss", weight, time)
    loss = _cross_entropy(-time if inverse == "negate" else 1 / (time + 1), y, weight)
    if weight is not None and reduction == "mean":
        return loss.sum() / _at(y, weight).sum()
    return _reduced(loss, reduction)


def l1_rate_sparsity(spk_out: Tensor, Lambda: float = 1e-5) -> Tensor:
    """A penalty for every spike: Lambda sum(spk_out)."""
    return Lambda * check_output("l1_rate_sparsity", spk_out).sum()


def spike_time(
    spk_out: Tensor,
    targets: Tensor,
    *,
    target_is_time: bool = False,
    on_target: Any = 0,
    off_target: Any = -1,
    tolerance: float = 0,
    multi_spike: bool = False,
) -> tuple[Tensor, Tensor]:
    """The times of the first spikes, and when they should be: two tensors `[batch, ..., classes]`, with `multi_spike` `[F, batch, ...]`.

    - `targets`: classes, which should fire at `on_target`, the others at `off_target`: steps, negative ones counted from the end, as
      in Python. With `multi_spike`, two sequences of F steps.
    - `target_is_time`: `targets` are the steps themselves, of any shape that broadcasts to the result's; with `multi_spike` F is
      their length.
    - `tolerance`: a time closer than this to its goal is taken for the goal.

    The times' gradient is that of `snf.metrics.spike_times`. `snntorch.functional.SpikeTime` 1.0.0, but for its goals: there
    `off_target` is read as at least 0 wherever it is below `on_target`, so that by default all classes should fire at step 0.
    """
    return _timed("spike_time", spk_out, targets, target_is_time, on_target, off_target, tolerance, multi_spike)


def _timed(
    name: str,
    spk_out: Tensor,
    targets: Tensor,
    target_is_time: bool,
    on_target: Any,
    off_target: Any,
    tolerance: float,
    multi_spike: bool,
) -> tuple[Tensor, Tensor]:
    T, shape = len(check_output(name, spk_out)), spk_out.shape[1:]
    if not tolerance >= 0:
        raise ValueError(f"{name}(tolerance={tolerance}): expected a number of steps, at least 0.")
    if target_is_time:
        goal = _given_times(name, spk_out, targets, multi_spike)
    else:
        y = classes(name, spk_out[0], targets, T)
        steps = [torch.as_tensor(at, dtype=spk_out.dtype, device=spk_out.device) for at in (on_target, off_target)]
        if any(at.dim() > multi_spike for at in steps) or steps[0].numel() != steps[1].numel():
            raise ValueError(
                f"{name}(on_target={on_target}, off_target={off_target}, multi_spike={multi_spike}): expected two steps, as in "
                "on_target=0, off_target=-1, or with multi_spike=True two sequences of as many, as in (5, 10) and (-6, -1)."
            )
        on, off = (at.reshape(-1, *[1] * len(shape)) for at in steps)
        goal = _goal(y, spk_out, on, off)
        goal = goal if multi_spike else goal[0]
    times = spike_times(spk_out, len(goal) if multi_spike else 1)
    times = times if multi_spike else times[0]
    goal = torch.where(goal < 0, T + goal, goal)
    if tolerance:
        near = (times - goal).abs() < tolerance
        times = times + torch.where(near, goal - times, torch.zeros_like(times)).detach()
    return times, goal


def _given_times(name: str, spk_out: Tensor, targets: Any, multi_spike: bool) -> Tensor:
    if not isinstance(targets, Tensor):
        raise TypeError(f"{name}(target_is_time=True): targets are steps, a tensor, not {type(targets).__name__}.")
    shape = spk_out.shape[1:]
    if multi_spike and targets.dim():
        inner = targets.shape[1:]
        targets = targets.view(len(targets), *[1] * (len(shape) - len(inner)), *inner)
        shape = (len(targets), *shape)
    try:
        return targets.to(spk_out.dtype).expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name}(target_is_time=True): steps {tuple(targets.shape)} do not broadcast to {tuple(shape)}, one a sample and neuron."
        ) from None


def choose(name: str, **options: str) -> None:
    """Refuse an option that is none of its choices."""
    for option, value in options.items():
        if value not in CHOICES[option]:
            raise ValueError(f"{name}({option}={value!r}): expected one of {', '.join(map(repr, CHOICES[option]))}.")


def _weights(name: str, weight: Any, scores: Any) -> Tensor | None:
    if weight is not None and isinstance(scores, Tensor):
        if not isinstance(weight, Tensor) or weight.shape != scores.shape[-1:]:
            came = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(
                f"{name}(weight=...): expected a tensor ({scores.size(-1)},), one weight a class, not {came}."
            )
    return weight


def _cross_entropy(scores: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    loss = -_at(y, scores.log_softmax(-1))
    return loss if weight is None else loss * _at(y, weight)


def _at(y: Tensor, scores: Tensor) -> Tensor:
    """`scores[..., y]`; gathered, because under vmap a number cannot be an index."""
    return scores.expand(*y.shape, scores.size(-1)).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _square_error(x: Tensor, goal: Tensor, y: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return F.mse_loss(x, goal, reduction=reduction)
    return _reduced(F.mse_loss(x, goal, reduction="none") * _at(y, weight).unsqueeze(-1), reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return {"mean": torch.mean, "sum": torch.sum, "none": lambda loss: loss}[reduction](loss)


def _goal(y: Tensor, out: Tensor, on: Any, off: Any) -> Tensor:
    """`on` at the class y, `off` at the others: [..., classes], in out's dtype."""
    right = torch.arange(out.size(-1), device=out.device) == y.unsqueeze(-1)
    on, off = (torch.as_tensor(at, dtype=out.dtype, device=out.device) for at in (on, off))
    return torch.where(right, on, off)


_show(globals(), hide=["CHOICES", "choose"])
