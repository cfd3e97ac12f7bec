"""A run and views so small that every method trains on them in a moment, and which no profile changes."""

import numpy as np
import torch

from lib.data.views import Views, quaternion
from lib.pipeline import settings

SECTIONS = {
    "model": dict(
        encoder="small-cnn", pretrained=False, feature_dim=16, width=16, layers=2, heads=2, output_dim=16, block_size=8,
        action_read_in="balanced", auxiliary_hidden=16, projector_dim=16, projector_out=16,
    ),
    "context": dict(
        mask_probability=0.5, mask_probability_end=0.1, mask_ramp_start=0.0, mask_unit="token", mask_per_layer=False,
        negatives="context", group_per="context", auxiliary_tokens="both", pairs_per_object=2,
    ),
    "pretrain": dict(
        steps=12, objects_per_step=6, views_per_object=4, contexts_per_step=4, optimizer="adamw", learning_rate=3e-3,
        muon_learning_rate=0.02, weight_decay=0.1, warmup_fraction=0.1, temperature=0.2, info_nce_weight=2.0,
        auxiliary_weight=3.0, label_weight=0.0, label_shift=2, gradient_clip=1.0, checkpoint_every=5,
    ),
    "baselines": dict(
        invariance_weight=2.0, variance_weight=3.0, covariance_weight=5.0, equivariance_weight=7.0,
    ),
    "evaluate": dict(
        representation_tasks=("individual", "relative", "classes"),
        embedding_tasks=("individual", "relative", "classes"), context_kinds=("rotation", "color", "none"),
        context_lengths=(0, 2, 6), context_source="train", context_seeds=(0, 1), shortcut_masks=(0.1, 0.9),
        train_images=48, validation_images=24, test_images=24, retrieval_objects=5, probes=("paper",),
        probe_widths=(16,), probe_epochs=2, probe_linear_epochs=2, probe_batch=16, probe_learning_rate=3e-3,
        ridge_penalties=(1.0,), sample_seed=0,
    ),
}  # fmt: skip


def run(method="contextssl", groups=("rotation", "color"), **changes):
    """A run of a method; `changes` are fields of any section, whose names are unique."""
    unknown = changes.keys() - {name for fields in SECTIONS.values() for name in fields}
    assert not unknown, f"no section has {unknown}"
    sections = {
        section: {name: changes.get(name, value) for name, value in fields.items()}
        for section, fields in SECTIONS.items()
    }
    return settings.Run(
        name="tiny", method=method, groups=groups, seeds=(0,), dataset="3diebench-mini", study="main",
        sections=("main",), precision="32-true", **sections,
    )  # fmt: skip


def views():
    """Six views of 20 objects: a pattern of each object's own, whose red is the floor's hue, and noise."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(120, 7, generator=generator)
    images = torch.rand(20, 16, 16, 3, generator=generator).repeat_interleave(6, 0) * 150
    images += torch.rand(120, 16, 16, 3, generator=generator) * 20
    images[..., 0] += 80 * latents[:, None, None, 3]
    targets = torch.cat([quaternion(latents[:, :3]), latents[:, [3, 6]]], 1)
    split = np.array(["train"] * 16 + ["validation"] * 2 + ["test"] * 2)
    names, labels = np.array(["parametric"] * 20), torch.arange(20) % 3
    return Views(images.to(torch.uint8), targets, latents, labels, ("bed", "car", "sofa"), split, names, names, 6)
