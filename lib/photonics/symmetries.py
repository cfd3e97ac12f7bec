"""What may be done to a crystal without changing its density of states, and what of it each method uses how.

Flips, quarter turns and translations of the periodic image leave the density of states as it is. As published, a family
has some of them as invariances, drawn for each view, and four others that E-SimCLR predicts:

======  ==================================  ================================
        invariant                           predicted
======  ==================================  ================================
blob    flips and quarter turns             translations by half a cell
pm      translations and a flip, or none    quarter turns
======  ==================================  ================================

Images are tensors (N, n, n). Random ones draw for every image by itself.
"""

import torch
from torch import Generator, Tensor


def translated(images: Tensor, generator: Generator) -> Tensor:
    """Moved by a random number of pixels along both axes, around the torus."""
    size = images.shape[-1]
    offset = torch.randint(size, (len(images), 2, 1), generator=generator)
    x, y = (torch.arange(size) - offset).remainder(size).unbind(1)
    return images[torch.arange(len(images))[:, None, None], x[:, :, None], y[:, None, :]]


def one_of(versions: Tensor, generator: Generator) -> Tensor:
    """Of V versions of each image, (V, N, n, n), a random one."""
    drawn = torch.randint(len(versions), (versions.shape[1],), generator=generator)
    return versions[drawn, torch.arange(versions.shape[1])]


def half_cell_translations(images: Tensor) -> Tensor:
    """The identity and translations by half a cell along one axis, the other and both: (4, N, n, n)."""
    half = images.shape[-1] // 2
    return torch.stack([images.roll(by, (1, 2)) for by in ((0, 0), (half, 0), (0, half), (half, half))])


def quarter_turns(images: Tensor) -> Tensor:
    """Turned by 0, 90, 180 and 270 degrees: (4, N, n, n)."""
    return torch.stack([torch.rot90(images, turns, (1, 2)) for turns in range(4)])


def turned_and_flipped(images: Tensor, generator: Generator) -> Tensor:
    """By a random element of the point group of the square."""
    turned = one_of(quarter_turns(images), generator)
    return one_of(torch.stack([turned, turned.flip(1)]), generator)


def translated_and_flipped(images: Tensor, generator: Generator) -> Tensor:
    """Translated, and flipped along one axis, the other or none."""
    moved = translated(images, generator)
    return one_of(torch.stack([moved, moved.flip(1), moved.flip(2)]), generator)


def any_symmetry(images: Tensor, generator: Generator) -> Tensor:
    """All of them: what an expert would augment labeled crystals with."""
    return translated(turned_and_flipped(images, generator), generator)


INVARIANT = {"blob": turned_and_flipped, "pm": translated_and_flipped}
PREDICTED = {"blob": half_cell_translations, "pm": quarter_turns}
