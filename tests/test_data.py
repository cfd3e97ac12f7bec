"""The data set: quaternions, rendering, splits, 3DIEBench's layout, and errors a person can act on."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.arrays import SPLITS
from lib.data.threediebench import import_3diebench
from lib.data.views import LATENTS, action, load_views, multiply, quaternion, relative_rotation
from lib.miniature import objects
from lib.miniature.dataset import Pinned, furniture_groups, render_miniature, split_real
from lib.miniature.pin import copy_checked
from lib.miniature.render import latents_from_unit, render, rotation_matrix

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "data"
needs_pinned = pytest.mark.skipif(
    not (PINNED / "scenes" / "unit-latents.npz").is_file(), reason="data/ is not there; `dvc pull` brings it"
)


def settings(**changes):
    values = dict(
        image_size=16, supersample=2, parametric_objects=24, real_types=["sanitary"],
        real_variants=2, views=2, rotation_range=math.pi / 4, palette="family", light_theta_max=math.pi / 4,
        camera_distance=4.4, camera_elevation=0.35, field_of_view=0.55, floor_saturation=0.6, light_saturation=0.55,
        split=SimpleNamespace(train=0.5, validation=0.25, test=0.25),
    )  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_quaternions_by_hand():
    r = math.sqrt(0.5)
    quarter_z = quaternion(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(quarter_z, torch.tensor([0.0, 0.0, r, r]))
    # first x, then z, about fixed axes: z's quaternion stands on the left
    both = quaternion(torch.tensor([math.pi / 2, 0.0, math.pi / 2]))
    torch.testing.assert_close(both, multiply(quarter_z, torch.tensor([r, 0.0, 0.0, r])))
    torch.testing.assert_close(both, torch.tensor([0.5, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(relative_rotation(quarter_z, both), torch.tensor([r, 0.0, 0.0, r]))


def test_quaternions_agree_with_the_renderer_and_compose():
    euler = (torch.rand(200, 3, dtype=torch.float64, generator=torch.manual_seed(0)) - 0.5) * 4 * math.pi
    q = quaternion(euler)
    assert (q[:, 3] >= 0).all()
    torch.testing.assert_close(q.norm(dim=1), torch.ones(200, dtype=torch.float64))
    point = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    turned = multiply(multiply(q, point.expand_as(q)), q * torch.tensor([-1.0, -1, -1, 1]))[:, :3]
    expected = np.stack([rotation_matrix(e) @ point[:3].numpy() for e in euler.numpy()])
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-12)
    a, b, c = q[:60], q[60:120], q[120:180]
    torch.testing.assert_close(multiply(a, relative_rotation(a, b)), b)
    torch.testing.assert_close(multiply(relative_rotation(a, b), relative_rotation(b, c)), relative_rotation(a, c))


def test_action_of_colors_is_the_difference():
    first, second = torch.tensor([0, 0, 0, 1, 0.2, 0.9]), torch.tensor([0, 0, 0, 1, 0.5, 0.1])
    torch.testing.assert_close(action(first, second), torch.tensor([0, 0, 0, 1, 0.3, -0.8]))


@pytest.mark.parametrize("family", objects.FAMILIES)
def test_pose_of_every_family_is_defined(family):
    """No half turn about an axis leaves the picture unchanged, and the object touches neither frame nor floor."""
    vertices, faces, part = objects.parametric(family, np.random.default_rng(3))
    assert part.max() < objects.PARTS
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1).max(), objects.RADIUS)
    mesh = objects.colored(vertices, faces, part, family, "family", np.full((objects.PARTS, 3), 0.5))
    poses = np.array([[0, 0, 0], [math.pi, 0, 0], [0, math.pi, 0], [0, 0, math.pi]]) + [0.2, 0.3, 0.4]
    latents = np.concatenate([poses, np.tile([0.3, 0.0, 0.0, 0.6], (4, 1))], 1)
    images = render(mesh, latents, settings(image_size=32)).astype(float)
    for turned in images[1:]:
        assert np.abs(turned - images[0]).mean() > 2


def test_every_latent_changes_the_image():
    mesh = objects.colored(
        *objects.parametric("chair", np.random.default_rng(0)), "chair", "family", np.full((objects.PARTS, 3), 0.5)
    )
    base = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    original, *changed = render(mesh, np.stack([base, *(base + 0.2 * np.eye(7))]), settings())
    for name, image in zip(LATENTS, changed, strict=True):
        assert (image != original).any(), name
    overhead = np.tile(base, (2, 1))
    overhead[:, 4], overhead[1, 5] = 0, 3.0  # a lamp at the zenith has no azimuth
    first, second = render(mesh, overhead, settings())
    np.testing.assert_array_equal(first, second)


def test_unit_latents_span_the_ranges_of_params():
    data = settings(rotation_range=0.5, light_theta_max=0.25)
    low, middle, high = latents_from_unit(np.array([np.zeros(7), np.full(7, 0.5), np.ones(7)]), data)
    np.testing.assert_allclose(low, [-0.5, -0.5, -0.5, 0, 0, 0, 0])
    np.testing.assert_allclose(middle, [0, 0, 0, 0.5, 0.125, math.pi, 0.5])
    np.testing.assert_allclose(high, [0.5, 0.5, 0.5, 1, 0.25, 2 * math.pi, 1])


@needs_pinned
def test_miniature_is_deterministic_and_split_by_mesh(tmp_path):
    data = settings()
    for name, workers in (("one", 1), ("two", 2)):
        render_miniature(data, PINNED, tmp_path / name, workers)
    for file in ("images.npy", "views.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["images.npy", "views.npz"]

    views = load_views(tmp_path / "one")
    assert views.images.shape == (len(views.labels) * 2, 16, 16, 3)
    parts = [set(views.objects(split).tolist()) for split in SPLITS]
    assert sorted(set.union(*parts)) == list(range(len(views.labels))) and sum(map(len, parts)) == len(views.labels)
    for mesh in set(views.mesh.tolist()):
        assert len(set(views.split[views.mesh == mesh])) == 1
    assert set(views.source[views.objects("test", "real")]) == {"real"}
    # row = object * views + view, checked against a direct rendering
    pinned, index = Pinned(PINNED), 7
    direct = render(pinned.parametric_mesh(index, "family"), pinned.parametric_latents(index, data), data)
    np.testing.assert_array_equal(views.images[2 * index : 2 * index + 2].numpy(), direct)


@needs_pinned
def test_meshes_of_one_scene_stay_together():
    groups = furniture_groups(PINNED / "furniture")
    types = Pinned(PINNED).furniture["type"]
    split = split_real(types, groups, settings().split)
    for group in set(groups):
        assert len({split[i] for i, g in enumerate(groups) if g == group}) == 1
    for kind in set(types):
        assert set(split[types == kind]) == set(SPLITS)


@needs_pinned
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": 99}, "data.views is 99"),
        ({"real_types": ["unicorn"]}, "unicorn"),
        ({"palette": "plaid"}, "plaid"),
        ({"split": SimpleNamespace(train=0.5, validation=0.5, test=0.5)}, "sum to 1"),
    ],
)
def test_bad_params_leave_nothing_behind(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        render_miniature(settings(**change), PINNED, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def tiny_3diebench(root: Path, list_suffix: str) -> list[str]:
    """Eight objects of two synsets with three views each, in the published layout."""
    generator = np.random.default_rng(0)
    entries = [f"/{synset}/object{i}/" for synset in ("02691156", "03001627") for i in range(4)]
    for entry in entries:
        folder = root / entry.strip("/")
        folder.mkdir(parents=True)
        for view in range(3):
            latent = generator.uniform(0, 1, 7)
            np.save(folder / f"latent_{view}.npy", latent)
            pixels = np.full((64, 64, 3), np.round(latent[[3, 4, 6]] * 255), np.uint8)
            Image.fromarray(pixels).save(folder / f"image_{view}.jpg", quality=95)
    for part, members in (("train", entries[:3] + entries[4:7]), ("val", [entries[3], entries[7]])):
        if list_suffix == ".npy":
            np.save(root / f"{part}_images.npy", np.array(members))
        else:
            (root / f"{part}_images.txt").write_text("\n".join(members) + "\n")
    return entries


@pytest.mark.parametrize("suffix", [".npy", ".txt"])
def test_3diebench_round_trip(tmp_path, suffix):
    root, out = tmp_path / "3DIEBench", tmp_path / "out"
    tiny_3diebench(root, suffix)
    import_3diebench(root, out, 16, 3, SimpleNamespace(train=0.6, validation=0.3), workers=1)
    views = load_views(out)
    assert views.images.shape == (24, 16, 16, 3) and views.classes == ("02691156", "03001627")
    assert [len(views.objects(split)) for split in SPLITS] == [4, 2, 2]
    assert views.mesh[views.objects("test")].tolist() == ["02691156/object3", "03001627/object3"]
    assert views.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    for row, path in ((4, "02691156/object1/latent_1.npy"), (23, "03001627/object3/latent_2.npy")):
        latent = np.load(root / path)
        np.testing.assert_allclose(views.latents[row], latent, rtol=1e-6)
        np.testing.assert_allclose(views.images[row, 8, 8].numpy(), latent[[3, 4, 6]] * 255, atol=4)  # JPEG is lossy


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda root: (root / "02691156/object1/image_2.jpg").unlink(), FileNotFoundError, "image_2.jpg is missing"),
        (lambda root: (root / "02691156/object1/latent_0.npy").unlink(), FileNotFoundError, "latent_0.npy is missing"),
        (lambda root: truncate(root / "02691156/object1/image_1.jpg"), ValueError, "image_1.jpg cannot be read"),
        (lambda root: truncate(root / "02691156/object1/latent_1.npy"), ValueError, "latent_1.npy cannot be read"),
        (lambda root: np.save(root / "02691156/object1/latent_1.npy", np.ones(9)), ValueError, r"shape \(9,\)"),
        (lambda root: (root / "val_images.npy").unlink(), FileNotFoundError, "val_images.npy is missing"),
    ],
)
def test_damaged_3diebench_is_named(tmp_path, damage, error, words):
    root, out = tmp_path / "3DIEBench", tmp_path / "out"
    tiny_3diebench(root, ".npy")
    damage(root)
    with pytest.raises(error, match=words) as caught:
        import_3diebench(root, out, 16, 3, settings().split, workers=1)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def cut_latents(folder: Path) -> None:
    arrays = dict(np.load(folder / "views.npz"))
    np.savez(folder / "views.npz", **{**arrays, "latents": arrays["latents"][:-1]})


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda folder: (folder / "images.npy").unlink(), FileNotFoundError, "images.npy is missing"),
        (lambda folder: truncate(folder / "images.npy"), ValueError, "images.npy cannot be read"),
        (lambda folder: truncate(folder / "views.npz"), ValueError, "views.npz cannot be read"),
        (cut_latents, ValueError, r"24 images, but the latents of .*views.npz are float32 \(23, 7\)"),
        (lambda folder: np.save(folder / "images.npy", np.zeros((24, 8, 8), "f4")), ValueError, "float32"),
    ],
)
def test_damaged_arrays_are_named(tmp_path, damage, error, words):
    tiny_3diebench(tmp_path / "3DIEBench", ".npy")
    import_3diebench(tmp_path / "3DIEBench", tmp_path, 16, 3, settings().split, workers=1)
    damage(tmp_path)
    with pytest.raises(error, match=words) as caught:
        load_views(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_digest_changes_with_everything_that_can_be_seen(tmp_path):
    tiny_3diebench(tmp_path / "3DIEBench", ".npy")
    import_3diebench(tmp_path / "3DIEBench", tmp_path, 16, 3, settings().split, workers=1)
    views = load_views(tmp_path)
    assert views.digest == load_views(tmp_path).digest
    one_pixel, other_split, other_label = views.images.clone(), views.split.copy(), views.labels.clone()
    one_pixel[7, 3, 3, 1] ^= 1
    other_split[0] = "test"
    other_label[2] = 1
    changes = [
        {"images": one_pixel}, {"split": other_split}, {"labels": other_label}, {"targets": views.targets + 1e-6},
        {"latents": views.latents + 1e-6}, {"classes": ("a", "b")}, {"source": views.mesh}, {"mesh": views.source},
        {"views": 6}, {"groups": {"rotation": slice(0, 4)}}, {"action": lambda t1, t2: t2 - t1},
    ]  # fmt: skip
    digests = {replace(views, **change).digest for change in changes}
    assert len(digests | {views.digest}) == len(changes) + 1


def test_pinning_checks_the_sum(tmp_path):
    (tmp_path / "furniture.csv").write_text("not the catalogue")
    with pytest.raises(ValueError, match="sha256"):
        copy_checked(tmp_path / "furniture.csv", tmp_path / "copy.csv")
    with pytest.raises(FileNotFoundError, match="meshes.npz is missing"):
        copy_checked(tmp_path / "meshes.npz", tmp_path / "copy.npz")
    assert not (tmp_path / "copy.csv").exists()
