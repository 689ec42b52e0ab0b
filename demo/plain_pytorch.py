"""Search, freeze and fuse a network in a plain PyTorch loop, half a minute on one CPU core, without MMEngine."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from repnas_mm.engine import Shrinking
from repnas_mm.engine.fusing import fuse_checked
from repnas_mm.models import to_odbb

EPOCHS, BATCH = 20, 64


def main(epochs: int = EPOCHS) -> float:
    """Print what the search kept, and the accuracy before and after fusing; return the latter."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 8 - 1, torch.tensor(digits.target)
    train, test = slice(0, 1437), slice(1437, None)
    layers = [(1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    convolutions = [
        layer for i, o, s in layers for layer in (nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    ]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    to_odbb(model)  # or of timm.create_model(...)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    steps = epochs * -(-len(images[train]) // BATCH)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    search = Shrinking(model, optimizer, num_branches=12, steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images[train])).split(BATCH):
            loss = cross_entropy(model(images[train][chosen]), labels[train][chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    for block, branches in search.finish().items():
        print(f'{block:<4}{" ".join(branches)}')

    @torch.no_grad()
    def outputs(network: nn.Module) -> list[torch.Tensor]:
        return [network.eval()(images[test])]

    accuracies = [(outputs(model)[0].argmax(1) == labels[test]).float().mean().item()]
    difference = fuse_checked(model, outputs).difference  # now an ordinary network
    accuracies.append((outputs(model)[0].argmax(1) == labels[test]).float().mean().item())
    print('accuracy unfused {:.4f}, fused {:.4f}; largest difference {:.0e}'.format(*accuracies, difference))
    return accuracies[1]


if __name__ == '__main__':
    main()
