"""Crop, blur and color against torchvision, their latents and actions, and the loaders of source images."""

import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image

from lib.data import augment
from lib.data.views import difference, load_views, save_views
from lib.pipeline import settings as params

LAPTOP = Path(__file__).parents[1] / "profiles/laptop.yaml"
IDENTITY = {"crop": [0.0, 0.0, 1.0, 1.0], "blur": [0.0], "color": [1.0, 1.0, 1.0, 0.0]}


@pytest.fixture
def spec():
    return SimpleNamespace(**vars(params.load(LAPTOP).augment))


@pytest.fixture
def images():
    """Smooth and noisy pictures: (6, 3, 32, 32) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(6, 3, 32, 32, generator=generator)
    noise[:3] = TF.gaussian_blur(noise[:3], [9, 9], [2.0, 2.0])
    return noise


def one_by_one(images, parameters, transform):
    return torch.stack([transform(image, *p.tolist()) for image, p in zip(images, parameters)])


def test_color_is_torchvisions(images, spec):
    drawn = augment.sample(["color"], 6, spec, torch.Generator().manual_seed(1))["color"]

    def slow(image, brightness, contrast, saturation, hue):
        image = TF.adjust_contrast(TF.adjust_brightness(image, brightness), contrast)
        return TF.adjust_hue(TF.adjust_saturation(image, saturation), hue)

    # A stored byte is 4e-3.
    torch.testing.assert_close(augment.color(images, drawn), one_by_one(images, drawn, slow), atol=1e-4, rtol=0)


def test_blur_is_torchvisions(images):
    sigma = torch.tensor([[0.3], [0.5], [1.0], [1.5], [1.9], [2.0]])
    expected = one_by_one(images, sigma, lambda image, s: TF.gaussian_blur(image, [13, 13], [s, s]))
    torch.testing.assert_close(augment.blur(images, sigma, 6), expected, atol=1e-5, rtol=0)


def test_crop_is_torchvisions(images):
    """But for its outermost pixels, which may also see what lies just outside the box."""
    box = torch.tensor([[4, 8, 16, 20], [0, 0, 8, 8], [10, 3, 22, 29], [0, 12, 32, 20], [5, 5, 5, 5], [16, 16, 16, 16]])
    expected = one_by_one(images, box, lambda image, *b: TF.resized_crop(image, *b, [32, 32], antialias=False))
    cropped = augment.crop(images, box / 32)
    inside = slice(4, -4)
    torch.testing.assert_close(cropped[..., inside, inside], expected[..., inside, inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("group", IDENTITY)
def test_identity_gives_the_image_back(images, spec, group):
    stored = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    same = torch.tensor([IDENTITY[group]]).expand(6, -1)
    assert (augment.augment(stored, {group: same}, spec).int() - stored.int()).abs().max() <= 1
    torch.testing.assert_close(augment.latents(group, same), torch.zeros(6, len(augment.LATENTS[group])))


def test_latents_add_up(images):
    """Blurring or brightening twice is doing it once by the sum of the latents."""
    variance = augment.latents("blur", torch.tensor([[0.6], [0.8]]))
    twice = augment.blur(augment.blur(images, torch.full((6, 1), 1.2), 8), torch.full((6, 1), 0.9), 8)
    once = augment.blur(images, torch.full((6, 1), 1.5), 8)
    torch.testing.assert_close(twice[..., 8:-8, 8:-8], once[..., 8:-8, 8:-8], atol=2e-3, rtol=0)
    torch.testing.assert_close(variance.sum(), torch.tensor(1.0))
    factors = torch.tensor([[1.2, 1.0, 1.0, 0.0], [1.5, 1.0, 1.0, 0.0]])
    product = torch.tensor([[1.8, 1.0, 1.0, 0.0]])
    torch.testing.assert_close(augment.latents("color", factors).sum(0), augment.latents("color", product)[0])


def test_actions_vanish_and_compose(spec):
    drawn = augment.sample(["crop", "color"], 3, spec, torch.Generator().manual_seed(0))
    x, y, z = torch.cat([augment.latents(group, p) for group, p in drawn.items()], 1)
    assert difference(x, x).abs().max() == 0
    torch.testing.assert_close(difference(x, y) + difference(y, z), difference(x, z))


def test_samples_stay_in_their_ranges(spec):
    drawn = augment.sample(["crop", "blur", "color"], 2000, spec, torch.Generator().manual_seed(0))
    corner, size = drawn["crop"].split(2, 1)
    assert corner.min() >= 0 and (corner + size).max() <= 1 + 1e-6
    # Cutting a box to the image's side takes less than the ratio's share of its area.
    assert spec.crop_area - 1e-6 <= size.prod(1).min() and size.prod(1).max() <= 1
    assert 0 <= drawn["blur"].min() and drawn["blur"].max() <= spec.blur_sigma
    assert drawn["color"][:, :3].log().abs().max() <= np.log(spec.brightness) + 1e-6
    assert drawn["color"][:, 3].abs().max() <= spec.hue


def sources(count=6, side=16):
    generator = np.random.default_rng(0)
    return augment.Sources(
        torch.from_numpy(generator.integers(0, 256, (count, side, side, 3), np.uint8)), np.arange(count) % 2,
        ("a", "b"), np.array(["train"] * count), np.array(["photo"] * count), np.arange(count).astype(str),
    )  # fmt: skip


@pytest.mark.parametrize("combination", augment.COMBINATIONS)
def test_views_are_the_same_for_the_same_seed_and_from_their_file(spec, combination, tmp_path):
    spec.views, spec.blur_sigma = 3, 1.0
    views, again = (augment.make_views(sources(), combination, spec, batch) for batch in (18, 5))
    assert views.images.shape == (18, 16, 16, 3)
    assert tuple(views.groups) == augment.COMBINATIONS[combination]
    assert views.targets.shape[1] == sum(s.stop - s.start for s in views.groups.values())
    assert torch.equal(views.targets, again.targets)
    assert (views.images.int() - again.images.int()).abs().max() <= 1
    save_views(views, tmp_path)
    loaded = load_views(tmp_path)
    assert (loaded.groups, loaded.action, loaded.views) == (views.groups, difference, 3)
    for name in ("images", "targets", "labels"):
        assert torch.equal(getattr(loaded, name), getattr(views, name))
    assert (loaded.classes, loaded.split.tolist(), loaded.mesh.tolist()) == (
        views.classes, views.split.tolist(), views.mesh.tolist()
    )  # fmt: skip
    spec.seed = 1
    assert not torch.equal(views.targets, augment.make_views(sources(), combination, spec).targets)


@pytest.fixture
def folder(tmp_path, spec):
    """12 train and 4 test pictures of two classes, and `spec` that names them."""
    for split, count in (("train", 6), ("test", 2)):
        for kind in ("cat", "dog"):
            path = tmp_path / "images" / split / kind
            path.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (16, 16), (20 * k, 0, 99 if kind == "cat" else 0)).save(path / f"{k:04d}.png")
    spec.name, spec.root, spec.images = "cifar10-jpeg", str(tmp_path / "images"), 100
    return spec


def test_folder_and_archive_give_the_same(folder, tmp_path):
    found = augment.load_sources(folder)
    assert found.classes == ("cat", "dog") and found.images.shape == (16, 16, 16, 3)
    assert [(found.split == s).sum() for s in ("train", "validation", "test")] == [11, 1, 4]
    assert all((image[..., 2] == 99).all() == (label == 0) for image, label in zip(found.images, found.labels))
    with tarfile.open(tmp_path / "images.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "images", arcname=".")
    folder.root = str(tmp_path / "images.tar.xz")
    same = augment.load_sources(folder)
    assert torch.equal(found.images, same.images) and (found.name == same.name).all()
    folder.images = 5
    assert len(augment.load_sources(folder).images) == 5


def test_faulty_folders_are_one_sentence(folder, tmp_path):
    root = Path(folder.root)

    def fails(error, sentence):
        with pytest.raises(error, match=sentence) as raised:
            augment.load_sources(folder)
        assert "\n" not in str(raised.value)

    (root / "train/cat/0000.png").write_bytes(b"no image")
    fails(ValueError, "train/cat/0000.png in .* cannot be read as an image")
    Image.new("RGB", (20, 16)).save(root / "train/cat/0000.png")
    fails(ValueError, "train/cat/.*.png in .* is 16 x .* px, but square images of one size")
    shutil.copytree(root / "test", root / "val")
    fails(ValueError, "has the split val; the splits are train, validation, test")
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    fails(FileNotFoundError, "has no images in test/<class>/")
    folder.root = str(tmp_path / "none")
    fails(FileNotFoundError, 'none" does not exist; augment.root must be a folder')
    (tmp_path / "broken.tar.xz").write_bytes(b"no archive")
    folder.root = str(tmp_path / "broken.tar.xz")
    fails(ValueError, "broken.tar.xz cannot be read as an archive")


@pytest.mark.parametrize(
    ("moves", "sentence"),
    [
        ({"test/dog": "test/bird"}, r"no images of the class bird in train \(2 test, 0 train\), but .* all 3 classes"),
        ({"test/dog": "bin/dog"}, r"no images of the class dog in test \(0 test, 6 train\), .* add test/dog"),
        ({"test/cat": "test/Cat"}, 'has the classes "Cat" and "cat", the same but for case'),
        ({"train/dog/0000.png": "train/dog /0000.png"}, 'has the classes "dog" and "dog ", .* rename one of them'),
        ({"train/cat/0000.png": "validation/cat/0000.png"}, "no images of the class dog in validation"),
    ],
    ids=["no training", "no test", "case", "space", "no validation"],
)
def test_splits_have_the_same_classes(folder, tmp_path, moves, sentence):
    for source, target in moves.items():
        target = Path(folder.root if not target.startswith("bin") else tmp_path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(folder.root, source), target)
    with pytest.raises(ValueError, match=sentence) as error:
        augment.load_sources(folder)
    assert "\n" not in str(error.value)


def test_counts_tell_the_images_of_each_class_and_split(folder):
    counts = augment.load_sources(folder).counts
    assert counts.columns.tolist() == ["train", "validation", "test"] and counts.index.tolist() == ["cat", "dog"]
    assert counts["test"].tolist() == [2, 2] and (counts["train"] + counts["validation"]).tolist() == [6, 6]
    folder.images = 1  # a class or split of which no image was drawn has 0
    assert augment.load_sources(folder).counts.shape == (2, 3)


def test_missing_cifar10_is_one_sentence(folder, tmp_path):
    folder.name, folder.root = "cifar10", str(tmp_path)
    with pytest.raises(ValueError, match="CIFAR-10 cannot be had in .*cifar-10-batches-py") as error:
        augment.load_sources(folder)
    assert "\n" not in str(error.value)


@pytest.mark.skipif("CIFAR10_IMAGES" not in os.environ, reason="CIFAR10_IMAGES names no folder or archive of CIFAR-10")
def test_real_images_of_cifar10(spec):
    spec.name, spec.root, spec.images = "cifar10-jpeg", os.environ["CIFAR10_IMAGES"], 60000
    found = augment.load_sources(spec)
    assert found.images.shape == (60000, 32, 32, 3)
    # Alphabetical order is that of the official labels.
    assert found.classes[:3] == ("airplane", "automobile", "bird") and (np.bincount(found.labels) == 6000).all()
    assert [(found.split == s).sum() for s in ("train", "validation", "test")] == [45000, 5000, 10000]
