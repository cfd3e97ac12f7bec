"""The context transformer reads alone what it reads in a sequence, and adapts nothing but through its context."""

from types import SimpleNamespace

import pytest
import torch

from lib.method.masking import pair_causal_mask
from lib.method.models import AuxiliaryPredictor, ContextTransformer, Encoder


def encoder(name, feature_dim, size):
    return Encoder(SimpleNamespace(encoder=name, feature_dim=feature_dim), size)


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return ContextTransformer(8, 6, 16, 3, 2, 5, "balanced", torch.full((6,), 0.3)).eval()


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(10, 8, generator=generator), torch.randn(10, 6, generator=generator)


@pytest.mark.parametrize("length", [0, 2, 6])
def test_a_token_read_after_a_cached_context_is_the_token_of_the_sequence(transformer, tokens, length):
    features, actions = tokens
    cache = transformer.context(features[:8], actions[:8]).prefix(length)
    read = transformer.read(features[8:], actions[8:], cache)
    for n in range(2):
        z = torch.cat([features[:length], features[8 + n : 9 + n]])[None]
        a = torch.cat([actions[:length], actions[8 + n : 9 + n]])[None]
        mask = torch.ones(length + 1, length + 1, dtype=torch.bool).tril()
        mask[:length, :length] = pair_causal_mask(length) if length else mask[:0, :0]
        in_sequence = transformer(z, a, [mask[None]] * 3)[0, -1]
        assert torch.allclose(read[n], in_sequence, atol=1e-5)


def test_a_context_is_a_set_of_pairs(transformer, tokens):
    features, actions = tokens
    mask = [torch.eye(10, dtype=torch.bool)[None].clone()] * 3
    mask[0][0, 9, :8] = True  # the last token sees four pairs, which see themselves alone
    order = torch.randperm(4).repeat_interleave(2) * 2 + torch.tensor([0, 1] * 4)
    shuffled = torch.cat([order, torch.tensor([8, 9])])
    out = transformer(features[None], actions[None], mask)[0, 9]
    assert torch.allclose(out, transformer(features[shuffled][None], actions[shuffled][None], mask)[0, 9], atol=1e-5)


def test_the_action_of_a_token_changes_its_embedding(transformer, tokens):
    features, actions = tokens
    cache = transformer.context(features[:4], actions[:4])
    moved = transformer.read(features[4:], actions[4:], cache) - transformer.read(features[4:], 0 * actions[4:], cache)
    assert (moved.norm(dim=-1) > 1e-3).all()


def test_encoders_read_stored_bytes():
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert encoder("small-cnn", 20, 32)(images).shape == (2, 20)
    assert encoder("resnet18", 512, 32)(images).shape == (2, 512)
    assert AuxiliaryPredictor(5, 7, 6)(torch.randn(2, 3, 5)).shape == (2, 3, 6)


def test_the_encoder_of_tables_reads_columns_as_they_are():
    torch.manual_seed(0)
    rows, of_table = torch.randn(4, 9), encoder("mlp", 20, 9)
    assert list(of_table.state_dict()) == [f"net.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")]
    z = of_table(rows)
    assert z.shape == (4, 20) and z.min() < 0  # the last layer is linear
    assert torch.allclose(of_table(rows[2:3]), z[2:3], atol=1e-6)  # a row knows nothing of its batch


def test_widths_that_do_not_fit_are_refused(transformer):
    with pytest.raises(ValueError, match="must be 512"):
        encoder("resnet18", 256, 32)
    with pytest.raises(ValueError, match="multiple of 16"):
        encoder("small-cnn", 256, 30)
    with pytest.raises(ValueError, match=r"features \(\.\.\., 8\)"):
        transformer.context(torch.zeros(2, 7), torch.zeros(2, 6))
