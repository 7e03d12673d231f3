"""The paper's variational autoencoder of categorical latent variables."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PIXELS = 784


class CategoricalVAE(nn.Module):
    """L latent variables of C categories each, between two perceptrons of hidden sizes 512 and 256."""

    def __init__(self, categories: int, latents: int, seed: int) -> None:
        super().__init__()
        self.categories, self.latents = categories, latents
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = _perceptron(PIXELS, 512, 256, latents * categories)
            self.decoder = _perceptron(latents * categories, 256, 512, PIXELS)

    def encode(self, images: Tensor) -> Tensor:
        """Logits [B, L, C] of the latent variables of images [B, 784]."""
        return self.encoder(images).unflatten(-1, (self.latents, self.categories))

    def decode(self, one_hot: Tensor) -> Tensor:
        """Logits [B, 784] of the pixels, from one-hot latent variables [B, L, C]."""
        return self.decoder(one_hot.flatten(-2))


def _perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them, and nothing after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def as_input(images: Tensor) -> Tensor:
    """Pixels [B, 784] in [0, 1] of uint8 images [B, 28, 28]."""
    return images.flatten(1).float() / 255


def negative_elbo(images: Tensor, pixel_logits: Tensor, probs: Tensor) -> Tensor:
    """Mean over the batch of the reconstruction's cross-entropy and of KL(q || uniform), q = probs [B, L, C]."""
    batch, latents, categories = probs.shape
    cross_entropy = functional.binary_cross_entropy_with_logits(pixel_logits, images, reduction="sum") / batch
    negative_entropy = (probs * (probs + 1e-10).log()).sum() / batch
    return cross_entropy + negative_entropy + latents * math.log(categories)
