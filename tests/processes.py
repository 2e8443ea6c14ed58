"""Training in many processes, each with its part of the batch: the gradients are those of one process with all of it.

    torchrun --nproc-per-node 2 tests/processes.py

By DistributedDataParallel over a module of faces (`snn.run`, its loop within, and the script as it stands, which
calls it step by step), and over `snf.module`; and in
the core by one all_reduce of the gradient tree.
"""

import optree
import torch
import torch.distributed as dist
from torch import nn
from torch.func import grad
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import snn_functional as snf
from snn_functional import snn


NET = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)


class Faces(nn.Module):
    """A network of faces over a whole sequence, so that DDP sees one forward for one backward."""

    def __init__(self, whole):
        super().__init__()
        leaky = lambda: snn.Leaky(beta=0.9, learn_beta=True, init_hidden=True)
        self.net = nn.Sequential(nn.Linear(6, 8), leaky(), nn.Linear(8, 3), leaky())
        self.whole = whole

    def forward(self, xs):
        snn.utils.reset(self.net)
        return snn.run(self.net, xs) if self.whole else torch.stack([self.net(x) for x in xs])


def tree():
    return snf.Linear.random(6, 8), snf.LeakyParams(0.9), snf.Linear.random(8, 3), snf.LeakyParams(0.9)


def loss_of(spks):
    return (spks.mean(0) - 0.3).square().mean()


def gradients(model, xs):
    model.zero_grad()
    loss_of(model(xs)).backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}


def by_one_all_reduce(grads):
    """The mean of each leaf over the processes, in one message."""
    leaves, spec = optree.tree_flatten(grads)
    vector = parameters_to_vector(leaves)
    dist.all_reduce(vector)
    means = [torch.empty_like(leaf) for leaf in leaves]
    vector_to_parameters(vector / dist.get_world_size(), means)
    return optree.tree_unflatten(spec, means)


def core(params, xs):
    return grad(lambda params: loss_of(snf.scan(NET.step, params, NET.init(params, xs[0]), xs)[0]))(params)


def main():
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    xs = torch.rand(20, 4 * size, 6) * 2
    mine = xs[:, 4 * rank : 4 * rank + 4]
    models = {
        "run": Faces(True),
        "step by step": Faces(False),
        "module": snf.module(NET, tree(), learn=["weight", "beta"]),
    }
    for name, model in models.items():
        expected = gradients(model, xs)
        assert sum(g.abs().sum() for g in expected.values()) > 0, name
        parallel = DistributedDataParallel(model)
        for _ in range(2):
            torch.testing.assert_close(gradients(parallel, mine), expected, msg=lambda m, name=name: f"{name}: {m}")
    net = Faces(False).net
    parallel = DistributedDataParallel(net)  # which sees a forward for each step of time, and one backward

    def moved(model):
        """The script as it stands, which calls the model in each step."""

        def over_time(xs):
            snn.utils.reset(net)
            return torch.stack([model(x) for x in xs])

        over_time.zero_grad, over_time.named_parameters = net.zero_grad, net.named_parameters
        return over_time

    expected = gradients(moved(net), xs)
    for _ in range(2):
        torch.testing.assert_close(gradients(moved(parallel), mine), expected)
    params = tree()
    found, expected = by_one_all_reduce(core(params, mine)), core(params, xs)
    torch.testing.assert_close(snf.named_leaves(found), snf.named_leaves(expected))
    assert expected[0].weight.abs().sum() > 0
    assert not torch.equal(core(params, mine)[0].weight, expected[0].weight), "a part of the batch has another gradient"
    dist.destroy_process_group()
    print(f"process {rank} of {size}: the same gradients")


if __name__ == "__main__":
    main()
