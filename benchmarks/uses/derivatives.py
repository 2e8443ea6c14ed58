"""Uses of a step: derivatives, many networks at once, learning. Each program takes a `Way` and checks its numbers."""

from typing import Any

import torch
from check import autograd, known, loss, Missing, same, stacked
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap
from torch.utils import _pytree as pytree
from way import data, filled, tensors, tree_map, Way


def gradient(way: Way) -> None:
    args = data()
    same(grad(loss(way.run))(way.params, *args), known(way, *args))


def per_sample(way: Way) -> None:
    xs, rates = data()
    each = [known(way, xs[:, b : b + 1], rates[b : b + 1]) for b in range(len(rates))]
    alone = lambda p, x, r: loss(way.run)(p, x[:, None], r[None])
    same(vmap(grad(alone), (None, 1, 0))(way.params, xs, rates), stacked(each))


def per_sample_batched_vjp(way: Way) -> str:
    xs, rates = data()
    each = [known(way, xs[:, b : b + 1], rates[b : b + 1]) for b in range(len(rates))]
    params = tree_map(lambda p: p.clone().requires_grad_(), way.params)
    losses = ((way.run(params, xs).mean(0) - rates) ** 2).mean(1)
    leaves, eye = tensors(params), torch.eye(len(rates))
    grads = torch.autograd.grad(losses, leaves, eye, is_grads_batched=True, allow_unused=True)
    same([p.new_zeros(len(rates), *p.shape) if g is None else g for p, g in zip(leaves, grads)], stacked(each))
    return "a batched vjp: the whole batch goes backward once a sample"


def forward_mode(way: Way) -> None:
    v, args = tree_map(torch.randn_like, way.params), data()
    expected = sum((g * t).sum() for g, t in zip(known(way, *args), tensors(v)))
    same(jvp(lambda p: loss(way.run)(p, *args), (way.params,), (v,))[1], expected)


def forward_by_reverse_twice(way: Way) -> str:
    v, args = tensors(tree_map(torch.randn_like, way.params)), data()
    expected = sum((g * t).sum() for g, t in zip(known(way, *args), v))
    f = lambda *leaves: loss(way.run)(filled(way.params, leaves), *args)
    same(torch.autograd.functional.jvp(f, tuple(tensors(way.params)), tuple(v))[1], expected)
    return "torch.autograd.functional.jvp: reverse mode twice, the whole past in memory"


def known_hvp(way: Way, v: list[Tensor], args: Any) -> list[Tensor]:
    params = tree_map(lambda p: p.clone().requires_grad_(), way.params)
    grads = autograd(lambda p: loss(way.by_hand)(p, *args), params, create_graph=True)
    dot = sum((g * t).sum() for g, t in zip(grads, v))
    hvp = torch.autograd.grad(dot, tensors(params), allow_unused=True)
    return [torch.zeros_like(t) if h is None else h for h, t in zip(hvp, v)]


def hvp(way: Way) -> None:
    v, args = tree_map(torch.randn_like, way.params), data()
    expected = known_hvp(way, tensors(v), args)
    same(jvp(lambda p: grad(loss(way.run))(p, *args), (way.params,), (v,))[1], expected)


def hvp_reverse_over_reverse(way: Way) -> str:
    v, args = tree_map(torch.randn_like, way.params), data()
    dot = lambda p: sum((g * t).sum() for g, t in zip(tensors(grad(loss(way.run))(p, *args)), tensors(v)))
    same(grad(dot)(way.params), known_hvp(way, tensors(v), args))
    return "torch.func, reverse over reverse; forward over reverse fails"


def hvp_by_autograd(way: Way) -> str:
    v, args = tensors(tree_map(torch.randn_like, way.params)), data()
    f = lambda *leaves: loss(way.run)(filled(way.params, leaves), *args)
    got = torch.autograd.functional.hvp(f, tuple(tensors(way.params)), tuple(v))[1]
    same(got, known_hvp(way, v, args))
    return "torch.autograd.functional.hvp: double backward"


# --- many networks at once --------------------------------------------------------------------------------------------

MEMBERS = torch.tensor([1.0, 0.9, 1.1])


def population(way: Way) -> None:
    if sum(leaf.dim() == 0 for leaf in tensors(way.params)) < 4:
        raise Missing("the threshold, or tau too, is a float of this step")
    population_of_what_there_is(way)


def population_of_what_there_is(way: Way) -> str:
    if not any(leaf.dim() == 0 for leaf in tensors(way.params)):
        raise Missing("no number of this step is a tensor")
    number = lambda leaf: isinstance(leaf, Tensor) and leaf.dim() == 0
    scaled = lambda m: tree_map(lambda p: p * m if p.dim() == 0 else p, way.params)
    axes = pytree.tree_map(lambda leaf: 0 if number(leaf) else None, way.params)
    xs, _ = data()
    got = vmap(way.run, (axes, None))(tree_map(lambda p: p * MEMBERS if p.dim() == 0 else p, way.params), xs)
    same(got, torch.stack([way.by_hand(scaled(m), xs) for m in MEMBERS]), "a member")
    return "the threshold is one number for all"


def population_by_broadcasting(way: Way) -> str:
    if sum(leaf.dim() == 0 for leaf in tensors(way.params)) < 4:
        raise Missing("the threshold, or tau too, is a float of this step")
    scaled = lambda m: tree_map(lambda p: p * m if p.dim() == 0 else p, way.params)
    xs, _ = data()
    wide = tree_map(lambda p: p * MEMBERS[:, None, None] if p.dim() == 0 else p, way.params)
    got = way.run(wide, xs[:, None].expand(-1, len(MEMBERS), -1, -1))
    same(got, torch.stack([way.by_hand(scaled(m), xs) for m in MEMBERS], 1), "a member")
    return "no vmap: the members are an axis of one wide layer"


def ensemble(way: Way) -> None:
    members = [tree_map(lambda p: p * m, way.params) for m in MEMBERS]  # noqa: B023
    args = data()
    expected = [autograd(lambda p: loss(way.by_hand)(p, *args), member) for member in members]
    stack = tree_map(lambda *leaves: torch.stack(leaves), *members)
    same(vmap(grad(loss(way.run)), (0, None, None))(stack, *args), stacked(expected))


# --- learning ---------------------------------------------------------------------------------------------------------


def adapted(run: Any, params: Any, task: Any) -> Any:
    """Two steps of gradient descent on a task, by plain autograd and differentiable."""
    for _ in range(2):
        grads = autograd(lambda p: loss(run)(p, *task), params, create_graph=True)
        params = filled(params, [p - 0.1 * g for p, g in zip(tensors(params), grads)])
    return params


def known_maml(way: Way, run: Any, tasks: Any) -> list[Tensor]:
    params = tree_map(lambda p: p.clone().requires_grad_(), way.params)
    total = sum(loss(run)(adapted(run, params, task), *task) for task in zip(*tasks)) / len(tasks[0])
    grads = torch.autograd.grad(total, tensors(params), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(tensors(params), grads)]


def tasks() -> tuple[Tensor, Tensor]:
    return tuple(torch.stack(parts) for parts in zip(*(data() for _ in range(3))))  # type: ignore[return-value]


def maml(way: Way) -> None:
    f, many = loss(way.run), tasks()

    def after(params, *task):
        for _ in range(2):
            params = tree_map(lambda p, g: p - 0.1 * g, params, grad(f)(params, *task))
        return f(params, *task)

    got = grad(lambda p: vmap(after, (None, 0, 0))(p, *many).mean())(way.params)
    same(got, known_maml(way, way.by_hand, many))


def maml_by_autograd(way: Way) -> str:
    many = tasks()
    same(known_maml(way, way.run, many), known_maml(way, way.by_hand, many))
    return "create_graph=True, one task after the other"


def online(way: Way, rtrl: Any) -> None:
    """A stream with a loss at every step: the gradient of their sum, without going back."""
    (xs, rates), square = data(1), lambda out, target: ((out - target) ** 2).sum()
    targets = rates.expand(len(xs), *rates.shape) * torch.linspace(0, 2, len(xs))[:, None, None]
    expected = autograd(lambda p: sum(map(square, way.by_hand(p, xs), targets)), way.params)
    same(rtrl(way.step, square)(way.params, way.init(way.params, xs[0]), xs, targets)[0], expected)


def rtrl(way: Way) -> None:
    if way.rtrl is None:
        raise Missing("no real-time recurrent learning")
    online(way, way.rtrl)


def rtrl_by_func(way: Way) -> str:
    online(way, lambda step, square: rtrl_by_hand(step, square, lambda f, at: jacrev(f, (0, 1))(*at)))
    return "fifteen lines around jacrev of the step"


def rtrl_by_autograd(way: Way) -> str:
    online(way, lambda step, square: rtrl_by_hand(step, square, torch.autograd.functional.jacobian))
    return "fifteen lines around torch.autograd.functional.jacobian, a backward for each entry of the state"


def rtrl_by_hand(step: Any, square: Any, jacobian: Any) -> Any:
    """The sensitivity S = d state / d params goes forward: S <- (d s'/d s) S + d s'/d params."""

    def flat(tree):
        return torch.cat([leaf.reshape(-1) for leaf in tensors(tree)])

    def shaped(tree, values):
        leaves = tensors(tree)
        return filled(tree, [v.reshape(x.shape) for v, x in zip(values.split([x.numel() for x in leaves]), leaves)])

    def rule(params, state, xs, targets):
        theta, s = flat(params), flat(state)
        S, gradient = s.new_zeros(len(s), len(theta)), torch.zeros_like(theta)
        for x, target in zip(xs, targets):

            def both(theta, s):
                out, after = step(shaped(params, theta), shaped(state, s), x)  # noqa: B023
                return torch.cat([flat(after), square(out, target).reshape(1)])  # noqa: B023

            by_theta, by_s = jacobian(both, (theta, s))
            rows = by_s @ S + by_theta
            S, gradient, s = rows[:-1], gradient + rows[-1], both(theta, s)[:-1].detach()
        return (shaped(params, gradient),)

    return rule
