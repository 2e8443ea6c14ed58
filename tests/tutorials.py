"""The training loops of snnTorch's tutorials, written afresh on scikit-learn's digits: one script, whichever library is imported.

Each takes the library as a user imports it and gives the losses of its steps and an accuracy, or an error, at the end.
"""

import importlib
import itertools
import types

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def ours():
    from snn_functional import snn
    from snn_functional.snn import functional as SF, surrogate, utils

    return types.SimpleNamespace(snn=snn, surrogate=surrogate, SF=SF, utils=utils)


def snntorchs():
    import snntorch as snn
    from snntorch import functional as SF, surrogate, utils

    return types.SimpleNamespace(snn=snn, surrogate=surrogate, SF=SF, utils=utils)


def digits(batch_size, count=512):
    data = load_digits()
    images = torch.tensor(data.images[:count] / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target[:count])
    return DataLoader(TensorDataset(images, labels), batch_size, shuffle=False, drop_last=True)


def fully_connected(lib, steps=24, num_steps=15):
    """Tutorial 5: two dense layers, explicit states, a static image, the loss of the membrane summed over time."""
    snn, torch_seed = lib.snn, 0

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(64, 80), snn.Leaky(beta=0.95)
            self.fc2, self.lif2 = nn.Linear(80, 10), snn.Leaky(beta=0.95)

        def forward(self, x):
            mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            spks, mems = [], []
            for _ in range(num_steps):
                spk1, mem1 = self.lif1(self.fc1(x), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spks.append(spk2), mems.append(mem2)
            return torch.stack(spks), torch.stack(mems)

    torch.manual_seed(torch_seed)
    net, loss = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.9, 0.999))
    losses, loader = [], digits(64)
    for x, y in itertools.islice(itertools.cycle(loader), steps):
        spks, mems = net(x.flatten(1))
        total = sum(loss(mem, y) for mem in mems)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    with torch.no_grad():
        right = [(net(x.flatten(1))[0].sum(0).argmax(1) == y).float().mean() for x, y in loader]
    return losses, torch.stack(right).mean().item()


def convolutional(lib, steps=40, num_steps=10):
    """Tutorial 6: a convolutional Sequential with hidden states, ce_rate_loss over the spikes."""
    net = convolutional_network(lib)
    criterion = lib.SF.ce_rate_loss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.999))
    losses, loader = [], digits(64)

    def forward(x):
        lib.utils.reset(net)
        return torch.stack([net(x)[0] for _ in range(num_steps)])

    for x, y in itertools.islice(itertools.cycle(loader), steps):
        total = criterion(forward(x), y)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    with torch.no_grad():
        right = [lib.SF.accuracy_rate(forward(x), y) for x, y in loader]
    return losses, float(sum(right) / len(right))


def convolutional_network(lib):
    snn, spike_grad = lib.snn, lib.surrogate.fast_sigmoid(slope=25)
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), snn.Leaky(beta=0.5, spike_grad=spike_grad, init_hidden=True), nn.Flatten(),
        nn.Linear(8 * 3 * 3, 10), snn.Leaky(beta=0.5, spike_grad=spike_grad, init_hidden=True, output=True),
    )  # fmt: skip


def bptt(lib, epochs=5):
    """Tutorial 6, its second half: the same network trained by `backprop.BPTT`, an epoch a call."""
    backprop = importlib.import_module(lib.snn.__name__ + ".backprop")
    net = convolutional_network(lib)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.999))
    criterion, loader = lib.SF.ce_rate_loss(), digits(64)
    losses = []
    for _ in range(epochs):
        mean = backprop.BPTT(net, loader, optimizer=optimizer, criterion=criterion, num_steps=10, time_var=False)
        losses.append(float(mean))
    return losses, losses[-1]


def regression(lib, steps=30):
    """The regression tutorial: a recurrent layer and a leaky membrane follow a line; the loss is of the membrane at all times."""
    snn = lib.snn
    torch.manual_seed(0)
    hidden = 16
    fc_in, fc_out = nn.Linear(1, hidden), nn.Linear(hidden, 1)
    rlif = snn.RLeaky(beta=0.9, linear_features=hidden, learn_recurrent=True)
    readout = snn.Leaky(beta=0.5, reset_mechanism="none", learn_beta=True)
    modules = nn.ModuleList([fc_in, rlif, fc_out, readout])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    target = torch.linspace(0, 1, 20)[:, None, None].repeat(1, 4, 1)
    losses = []
    for _ in range(steps):
        spk, mem = rlif.init_rleaky()
        out = readout.init_leaky()
        mems = []
        for x in target:
            spk, mem = rlif(fc_in(x), spk, mem)
            _, out = readout(fc_out(spk), out)
            mems.append(out)
        total = nn.functional.mse_loss(torch.stack(mems), target)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses, losses[-1]
