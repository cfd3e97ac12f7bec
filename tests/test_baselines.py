"""Each baseline is what its paper says: its loss by hand, who gets a gradient from it, and what it may know."""

import numpy as np
import pytest
import tiny
import torch

from lib.data.views import Views
from lib.method import losses
from lib.method.masking import pair_causal_mask
from lib.method.methods import Step, build
from lib.method.models import sphere
from lib.method.sampling import Batch, Draws, sample_groups, sample_pairs

SMALL = dict(
    encoder="mlp", feature_dim=8, output_dim=6, projector_dim=12, projector_out=10, pairs_per_object=1,
    contexts_per_step=3, temperature=0.3,
)  # fmt: skip
INVARIANT = ("simclr", "vicreg", "simclr-plus", "vicreg-plus")
BOTH = ("rotation", "color")


@pytest.fixture
def views():
    """Four views of 12 objects, rows of a table with five columns."""
    generator = torch.Generator().manual_seed(0)
    names = np.array(["thing"] * 12)
    return Views(
        torch.randn(48, 5, generator=generator), torch.randn(48, 6, generator=generator), torch.zeros(48, 7),
        torch.arange(12) % 3, ("bed", "car", "sofa"), np.array(["train"] * 12), names, names, 4,
    )  # fmt: skip


def of(method, groups=BOTH, **changes):
    return tiny.run(method, groups, **SMALL | changes)


@pytest.fixture
def make(views):
    """A model, two feature batches (7, F) with gradients and the actions (7, A) between them."""

    def made(method, groups=BOTH):
        torch.manual_seed(0)
        model = build(of(method, groups), views)
        z1, z2 = torch.randn(2, 7, 8, requires_grad=True).unbind()
        return model, z1, z2, torch.randn(7, 6)

    return made


@pytest.fixture
def step(views):
    """One training step of a method on six objects: its losses, and what went into and came out of some modules."""

    def stepped(run, watch=(), targets=views.targets):
        torch.manual_seed(0)
        model, seen = build(run, views), {}
        for name in watch:
            getattr(model, name).register_forward_hook(
                lambda module, args, out, name=name: seen.update({name: (*args, out)})
            )
        batch = Batch(views.images.unflatten(0, (12, 4))[:6], targets.unflatten(0, (12, 4))[:6], views.labels[:6])
        return Step(model, run, views)(batch, Draws(1, 0), 0.5), seen

    return stepped


def children_reached(model, loss):
    """Names of the model's direct parts whose weights get a gradient from a loss."""
    names, weights = zip(*model.named_parameters())
    grads = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return {name.split(".")[0] for name, g in zip(names, grads) if g is not None and g.abs().max() > 1e-6}


def slow_variance(z):
    std = [(sum((v - sum(c) / len(c)) ** 2 for v in c) / (len(c) - 1) + 1e-4) ** 0.5 for c in z.T.tolist()]
    return sum(max(0.0, 1 - s) for s in std) / len(std)


def slow_covariance(z):
    columns, total = z.T.tolist(), 0.0
    for i, c in enumerate(columns):
        for j, d in enumerate(columns):
            if i != j:
                c0, d0 = sum(c) / len(c), sum(d) / len(d)
                total += (sum((u - c0) * (v - d0) for u, v in zip(c, d)) / (len(c) - 1)) ** 2 / len(columns)
    return total


def slow_invariance(z1, z2):
    return sum((u - v) ** 2 for u, v in zip(z1.flatten().tolist(), z2.flatten().tolist())) / z1.numel()


def test_vicreg_terms_are_the_loops_of_its_paper():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 0.8, 1.5, 2.5])  # on both sides of the hinge
    z1, z2 = (torch.randn(6, 4, generator=generator) * spread + 3 for _ in range(2))
    slow = (
        slow_invariance(z1, z2),
        (slow_variance(z1) + slow_variance(z2)) / 2,
        slow_covariance(z1) + slow_covariance(z2),
    )
    assert 0 < slow[1] < 0.9
    assert torch.stack(losses.vicreg_terms(z1, z2)).tolist() == pytest.approx(slow, rel=1e-4)
    assert losses.variance_hinge(z1).item() == pytest.approx(slow_variance(z1), rel=1e-4)


def test_what_vicreg_says_of_collapse_and_of_the_ideal():
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    copied = square[:, :1].expand(4, 3)  # one dimension three times, variance 4/3
    terms = {name: torch.stack(losses.vicreg_terms(z, z)).tolist() for name, z in
             {"constant": torch.ones(5, 3), "ideal": square, "copied": copied}.items()}  # fmt: skip
    assert terms["constant"] == pytest.approx([0, 0.99, 0], abs=1e-6)
    assert terms["ideal"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert terms["copied"] == pytest.approx([0, 0, 2 * 2 * (4 / 3) ** 2], abs=1e-5)
    z = torch.full((5, 3), 2.0)
    assert losses.vicreg_terms(z, z + 0.5)[0].item() == pytest.approx(0.25)


def test_vicreg_weighs_its_terms(make):
    model, z1, z2, a = make("vicreg")
    parts = model.losses(z1, z2, a, of("vicreg"))
    expected = 2 * parts["invariance"] + 3 * parts["variance"] + 5 * parts["covariance"]
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_sie_is_the_sum_of_its_parts(make):
    model, z1, z2, a = make("sie")
    i1, i2 = model.invariant(z1[:, :4]), model.invariant(z2[:, :4])
    e1, e2 = model.equivariant(z1[:, 4:]), model.equivariant(z2[:, 4:])
    scaled = a / model.action.scale
    predicted = torch.stack([
        sum(scaled[n, c] * model.hypernetwork.weight[:, c].reshape(5, 5) for c in range(6)) @ e1[n] for n in range(7)
    ])  # fmt: skip
    whole1, whole2 = torch.cat([i1, e1], 1), torch.cat([i2, e2], 1)
    slow = (
        2 * slow_invariance(i1, i2)
        + 7 * slow_invariance(predicted, e2)
        + 3 * ((slow_variance(whole1) + slow_variance(whole2)) / 2 + slow_variance(predicted) / 2)
        + 5 * (slow_covariance(whole1) + slow_covariance(whole2))
    )
    assert model.losses(z1, z2, a, of("sie"))["loss"].item() == pytest.approx(slow, rel=1e-4)


def test_sie_predicts_by_a_matrix_linear_in_the_action(make):
    model, z, _, a = make("sie")
    b, predict = a.roll(1, 0), model.predict
    assert torch.allclose(predict(z, -a), -predict(z, a), atol=1e-6)  # so q and -q, one rotation, disagree
    assert torch.allclose(predict(z, 2 * a - 3 * b), 2 * predict(z, a) - 3 * predict(z, b), atol=1e-4)
    assert predict(z, 0 * a).abs().max() == 0
    assert (predict(z, a) - predict(z, b)).norm(dim=-1).min() > 1e-3
    moved = torch.cat([torch.randn(7, 4), z[:, 4:]], 1)
    assert torch.equal(predict(moved, a), predict(z, a))


REACHED = {
    ("simclr", "loss"): {"encoder", "projector"},
    ("vicreg", "loss"): {"encoder", "projector"},
    ("sen", "loss"): {"encoder", "projector", "transition"},
    ("equimod", "invariance"): {"encoder", "invariant"},
    ("equimod", "equivariance"): {"encoder", "equivariant", "read_in", "predictor_layer"},
    ("sie", "invariance"): {"encoder", "invariant"},
    ("sie", "equivariance"): {"encoder", "equivariant", "hypernetwork"},
    ("sie", "loss"): {"encoder", "invariant", "equivariant", "hypernetwork"},
}


@pytest.mark.parametrize(("method", "term"), REACHED, ids=lambda name: name)
def test_gradients_reach_the_term_s_own_parts_alone(make, method, term):
    model, _, _, a = make(method)
    z1, z2 = model.encoder(torch.randn(7, 5)), model.encoder(torch.randn(7, 5))
    loss = model.losses(z1, z2, a, of(method))[term]
    assert children_reached(model, loss) == REACHED[method, term]
    assert all(g.abs().max() > 1e-6 for g in torch.autograd.grad(loss, (z1, z2)))  # both views learn


@pytest.mark.parametrize(("term", "half"), [("invariance", slice(0, 4)), ("equivariance", slice(4, 8))])
def test_each_half_of_sie_s_feature_has_its_own_term(make, term, half):
    model, z1, z2, a = make("sie")
    for grad in torch.autograd.grad(model.losses(z1, z2, a, of("sie"))[term], (z1, z2)):
        reached = grad.abs().max(0).values > 0
        assert reached[half].all() and reached.sum() == 4


@pytest.mark.parametrize("method", ["equimod", "sen", "sie"])
@pytest.mark.parametrize(("group", "other"), [("rotation", "color"), ("color", "rotation")])
def test_a_model_of_one_group_never_hears_of_the_other(make, views, method, group, other):
    model, z1, z2, a = make(method, (group,))

    def loss(changed):
        b = a.clone()
        b[:, views.groups[changed]] = a[:, views.groups[changed]].roll(1, 0)
        return model.losses(z1, z2, b, of(method))["loss"]

    before = model.losses(z1, z2, a, of(method))["loss"]
    assert torch.equal(before, loss(other))
    assert not torch.isclose(before, loss(group))


@pytest.mark.parametrize("method", INVARIANT)
def test_invariant_methods_ignore_the_action(step, views, method):
    told, _ = step(of(method))
    moved, _ = step(of(method), targets=views.targets.flip(0))
    assert torch.equal(told["loss"], moved["loss"])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_plus_variant_sees_its_whole_past_or_itself_alone(step, p):
    _, seen = step(of("simclr-plus", mask_probability=p), ["predictor"])
    features, actions, _, h = seen["predictor"]
    assert actions.abs().max() == 0
    past = pair_causal_mask(8) if p == 0 else torch.eye(8, dtype=torch.bool)
    for token in range(8):
        grad = torch.autograd.grad(h[1, token].square().sum(), features, retain_graph=True)[0]
        assert torch.equal(grad[1].abs().sum(-1) > 0, past[token])  # y_i: all before, but not its own x_i
        assert grad[[0, 2]].abs().max() == 0  # nor another context


def test_plus_variants_have_the_loss_of_their_name(step):
    parts, seen = step(of("simclr-plus", mask_probability=0.0), ["predictor"])
    h = seen["predictor"][-1]
    each = [losses.nt_xent(h[b, 0::2], h[b, 1::2], 0.3).item() for b in range(3)]
    assert parts["loss"].item() == pytest.approx(sum(each) / 3, rel=1e-6)
    parts, seen = step(of("vicreg-plus", mask_probability=0.0), ["predictor"])
    h = seen["predictor"][-1]
    invariance, variance, covariance = losses.vicreg_terms(h[:, 0::2].flatten(0, 1), h[:, 1::2].flatten(0, 1))
    assert parts["loss"].item() == pytest.approx((2 * invariance + 3 * variance + 5 * covariance).item(), rel=1e-6)


@pytest.mark.parametrize("method", ["contextssl", "simclr-plus"])
def test_a_rotation_context_shifts_the_labels_of_its_y_tokens(step, views, method):
    parts, seen = step(of(method, label_weight=4.0), ["predictor", "classifier"])
    draws = Draws(1, 0)
    pairs = sample_pairs(3, 4, 6, 4, 1, draws("pairs"))
    groups = ["rotation", "color", "rotation"]  # of simclr-plus, whose contexts take turns from the first
    if method == "contextssl":
        groups = sample_groups(3, BOTH, "context", draws("groups"))
    read, logits = seen["classifier"]
    assert logits.shape == (12, 3 + 2)
    assert torch.allclose(read, sphere(seen["predictor"][-1][:, 1::2]).flatten(0, 1))
    wanted = [int(views.labels[y // 4]) + 2 * (g == "rotation") for g, ys in zip(groups, pairs.y.tolist()) for y in ys]
    assert parts["label"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor(wanted)).item(), rel=1e-5
    )
    without, _ = step(of(method, label_weight=1e-9))
    assert (parts["loss"] - without["loss"]).item() == pytest.approx(4 * parts["label"].item(), rel=1e-4)


def test_pairs_are_views_of_one_object_and_half_of_their_labels_are_shifted(step, views):
    parts, seen = step(of("simclr", label_weight=1.0), ["encoder", "projector", "classifier"])
    z, embedded = seen["encoder"][-1], seen["projector"][-1]
    assert torch.equal(seen["projector"][0], z[1::2])  # asked about the second view of each pair
    read, logits = seen["classifier"]
    assert torch.allclose(read, sphere(embedded))
    shifted = torch.rand(12, generator=Draws(1, 0)("labels")) < 0.5
    wanted = views.labels[:6].repeat_interleave(2) + 2 * shifted
    assert parts["label"].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, wanted).item(), rel=1e-5)
