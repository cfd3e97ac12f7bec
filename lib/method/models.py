"""Encoder, context transformer and auxiliary predictor (section 3.2 and appendix B.5)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.method.masking import pair_causal_mask


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them."""
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SmallCNN(nn.Sequential):
    """Strided 3 x 3 convolutions, two at each of four resolutions.

    Three layers fewer with a larger stride at the start take .42 of its time, but read less of the pose: of unseen
    objects R² .74 instead of .82 after 1,500 steps (results/trials.csv).

    Args:
        feature_dim: F.
        image_size: side of the square images in pixels, a multiple of 16.
    """

    def __init__(self, feature_dim: int, image_size: int) -> None:
        if image_size % 16:
            raise ValueError(f"data.image_size must be a multiple of 16 for the small CNN; got {image_size}.")
        layers, channels = [], 3
        for width in (16, 32, 64, 128):
            for stride in (2, 1):
                layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        # Flattened, not averaged: pose sits in where things are.
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * (image_size // 16) ** 2, feature_dim))


class Encoder(nn.Module):
    """Sample to feature; takes stored images as bytes and standardizes them itself.

    Args:
        spec: the settings ``model``. Its ``encoder`` is ``small-cnn`` (laptop) or ``resnet18`` (paper) for images,
            ``mlp`` for rows of a table; its ``feature_dim`` F must be 512 for a ResNet-18.
        size: side of the square images in pixels, or the number of a table's columns.
    """

    def __init__(self, spec, size: int) -> None:
        super().__init__()
        self.of_images = spec.encoder != "mlp"
        if not self.of_images:
            self.net = mlp(size, spec.feature_dim, spec.feature_dim, spec.feature_dim)
            return
        if spec.encoder == "resnet18":
            import torchvision  # takes seconds, and is needed here alone

            self.net = torchvision.models.resnet18()
            if spec.feature_dim != self.net.fc.in_features:
                raise ValueError(f"model.feature_dim must be 512 for resnet18; got {spec.feature_dim}.")
            self.net.fc = nn.Identity()
        else:
            self.net = SmallCNN(spec.feature_dim, size)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 127.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 64.0))
        self.to(memory_format=torch.channels_last)

    def load_imagenet(self) -> None:
        """Start a ResNet-18 from ImageNet's weights (the paper's text; the released code does not)."""
        import torchvision

        weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        self.net.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")})

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8, or (N, size) standardized columns of a table, to (N, F)."""
        if not self.of_images:
            return self.net(images)
        # Stored channels last, and the permuted view keeps that layout, which convolutions on a CPU like best.
        return self.net((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)


@dataclass(frozen=True)
class ContextCache:
    """Keys and values of a context, one pair of (heads, T, D / heads) tensors for each layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def prefix(self, length: int) -> "ContextCache":
        """The cache of the first ``length`` tokens: attention is causal, so a prefix needs no new computation."""
        return ContextCache(tuple(k[:, :length] for k in self.keys), tuple(v[:, :length] for v in self.values))


class Block(nn.Module):
    """Pre-norm transformer block of the GPT-2 family: attention, then a four times wider MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) to queries, keys and values, each (B, heads, T, D / heads)."""
        return self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual stream (B, T, D) plus attention output (B, heads, T, D / heads) plus MLP."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x))


class ContextTransformer(nn.Module):
    """Decoder-only transformer h over tokens (x_1, a_1), y_1, ..., without positions (equation 1, appendix B.5).

    A token is a feature and an action; the action of a y-token is zero. Order carries nothing: a context is a set of
    pairs, and the masks say what came before.

    Args:
        feature_dim: F.
        action_dim: A.
        width, layers, heads: of the transformer.
        output_dim: E.
        action_read_in: ``paper``: one linear layer on the concatenation [feature; action], as published. ``balanced``:
            the same layer, but on the layer-normed feature and the action in units of its root mean square, with
            weights that give both parts equal scale, so that an action of six small numbers is heard beside a wide
            feature from the first step.
        action_scale: (A,) root mean square of the actions of the training set; used by ``balanced`` alone.
    """

    def __init__(
        self, feature_dim: int, action_dim: int, width: int, layers: int, heads: int, output_dim: int,
        action_read_in: str, action_scale: Tensor,
    ) -> None:  # fmt: skip
        super().__init__()
        balanced = action_read_in == "balanced"
        self.feature_dim, self.action_dim = feature_dim, action_dim
        self.feature_norm = nn.LayerNorm(feature_dim) if balanced else nn.Identity()
        self.register_buffer("action_scale", action_scale.clone() if balanced else torch.ones(action_dim))
        self.read_in = nn.Linear(feature_dim + action_dim, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, output_dim)
        if balanced:
            nn.init.normal_(self.read_in.weight[:, :feature_dim], std=feature_dim**-0.5)
            nn.init.normal_(self.read_in.weight[:, feature_dim:], std=action_dim**-0.5)

    def _tokens(self, features: Tensor, actions: Tensor) -> Tensor:
        if features.shape[:-1] != actions.shape[:-1] or features.shape[-1] != self.feature_dim:
            raise ValueError(
                f"Tokens need features (..., {self.feature_dim}) and actions (..., {self.action_dim}) of equal leading "
                f"shape; got {tuple(features.shape)} and {tuple(actions.shape)}."
            )
        return self.read_in(torch.cat([self.feature_norm(features), actions / self.action_scale], dim=-1))

    def forward(self, features: Tensor, actions: Tensor, masks: list[Tensor]) -> Tensor:
        """Embed every token of every context, each with what it may see.

        Args:
            features: (B, T, F).
            actions: (B, T, A), zero at y-tokens.
            masks: one (B, T, T) boolean mask for each layer, see `masking`.

        Returns:
            (B, T, E), not normalized.
        """
        x = self._tokens(features, actions)
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block.add(x, F.scaled_dot_product_attention(*block.heads_of(x), attn_mask=mask[:, None]))
        return self.read_out(self.norm(x))

    def attention(self, features: Tensor, actions: Tensor, masks: list[Tensor]) -> list[Tensor]:
        """Attention weights of every layer, each (B, heads, T, T), rows summing to 1; arguments as for `forward`."""
        x, weights = self._tokens(features, actions), []
        for block, mask in zip(self.blocks, masks, strict=True):
            q, k, v = block.heads_of(x)
            score = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask[:, None], float("-inf"))
            weights.append(score.softmax(dim=-1))
            x = block.add(x, weights[-1] @ v)
        return weights

    def context(self, features: Tensor, actions: Tensor) -> ContextCache:
        """Keys and values of one context, for `read`; nothing is masked at random outside training.

        Args:
            features: (T, F). actions: (T, A), zero at y-tokens.
        """
        mask = pair_causal_mask(len(features)).to(features.device)
        x, keys, values = self._tokens(features, actions)[None], [], []
        for block in self.blocks:
            q, k, v = block.heads_of(x)
            keys.append(k[0])
            values.append(v[0])
            x = block.add(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        return ContextCache(tuple(keys), tuple(values))

    def read(self, features: Tensor, actions: Tensor, cache: ContextCache) -> Tensor:
        """Embed query tokens, each alone after the same context (the paper's inference, section 3.2).

        The queries of one head attend to one copy of the context: nothing is repeated for each query.

        Args:
            features: (N, F). actions: (N, A). cache: of a context of any length, 0 too.

        Returns:
            (N, E), not normalized.
        """
        x = self._tokens(features, actions)[None]
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            q, k, v = (t[0] for t in block.heads_of(x))
            scale = q.shape[-1] ** -0.5
            own = (q * k).sum(-1, keepdim=True) * scale
            weight = torch.cat([q @ keys.mT * scale, own], dim=-1).softmax(dim=-1)
            x = block.add(x, (weight[..., :-1] @ values + weight[..., -1:] * v)[None])
        return self.read_out(self.norm(x))[0]


def sphere(embeddings: Tensor) -> Tensor:
    """(..., E), L2-normalized, then scaled by sqrt(E) so that the entries are near 1: what heads read."""
    return F.normalize(embeddings, dim=-1) * embeddings.shape[-1] ** 0.5


class AuxiliaryPredictor(nn.Module):
    """From an output embedding, the latents of the target y (section 3.2, "Avoiding collapse to Invariance")."""

    def __init__(self, output_dim: int, hidden: int, action_dim: int) -> None:
        super().__init__()
        self.net = mlp(output_dim, hidden, hidden, action_dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(..., E) to (..., A)."""
        return self.net(sphere(embeddings))


class ContextSSL(nn.Module):
    """Encoder f, context transformer h and its heads, with the statistics of the training set's targets.

    Args:
        spec: the settings ``model``. size: of a sample, see `Encoder`.
        target_mean, target_std: (A,) of the latents that the auxiliary predictor must tell.
        action_scale: (A,) root mean square of the actions.
        auxiliary: with the auxiliary predictor (SimCLR+, VICReg+ and one ablation have none).
    """

    def __init__(
        self, spec, size: int, target_mean: Tensor, target_std: Tensor, action_scale: Tensor, auxiliary: bool
    ) -> None:
        super().__init__()
        actions, self.embedding_dim = len(action_scale), spec.output_dim
        self.encoder = Encoder(spec, size)
        self.predictor = ContextTransformer(
            spec.feature_dim, actions, spec.width, spec.layers, spec.heads, spec.output_dim, spec.action_read_in,
            action_scale,
        )  # fmt: skip
        self.auxiliary = AuxiliaryPredictor(spec.output_dim, spec.auxiliary_hidden, actions) if auxiliary else None
        self.register_buffer("target_mean", target_mean.clone())
        self.register_buffer("target_std", target_std.clone())
