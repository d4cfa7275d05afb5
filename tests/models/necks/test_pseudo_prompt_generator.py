"""PseudoPromptGenerator against scikit-learn's KMeans and against a slow NumPy loop."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import PseudoPromptGenerator
from mmseg_escnet.models.necks import pseudo_prompt_generator as module

ONE = torch.tensor(1.0)  # logit scale


def peak_normalised(correlation: np.ndarray, scale: float) -> np.ndarray:
    """Softmax over the positions of one class (h, w), over its maximum."""
    exponent = np.exp(correlation.astype(np.float64) * scale - (correlation * scale).max())
    probability = exponent / exponent.sum()
    return probability / probability.max()


def slow_seeds(pixels, peak, num_objects, min_distance=0.0):
    """The peak, then always the first of the pixels that are farthest from all seeds."""
    seeds = [peak]
    while len(seeds) < num_objects:
        nearest = [min((x - u) ** 2 + (y - v) ** 2 for u, v in seeds) for x, y in pixels]
        if max(nearest) <= min_distance**2:
            break
        seeds.append(pixels[nearest.index(max(nearest))])
    return seeds


def slow_lloyd(pixels, seeds, num_iterations):
    """Lloyd's algorithm: ties go to the first centre, a centre without pixels stays.

    Returns:
        The label of every pixel, and the least difference between the squared distances to the
        nearest and second nearest centre that was ever met.
    """
    pixels = np.array(pixels, dtype=np.float32)
    centers = np.array(seeds, dtype=np.float32)
    margin = np.inf

    def assign():
        nonlocal margin
        labels = []
        for pixel in pixels:
            distances = [((pixel - center) ** 2).sum() for center in centers]
            labels.append(int(np.argmin(distances)))  # the first of equals
            if len(distances) > 1:
                margin = min(margin, np.diff(np.sort(distances))[0])
        return np.array(labels)

    for _ in range(num_iterations):
        labels = assign()
        for index in range(len(centers)):
            if (labels == index).any():
                centers[index] = pixels[labels == index].mean(axis=0)
    return assign(), margin


def pixels_and_peak(p, threshold):
    height, width = p.shape
    pixels = [(x, y) for y in range(height) for x in range(width) if p[y, x] >= threshold]
    y, x = np.unravel_index(p.argmax(), p.shape)
    return pixels, (int(x), int(y))


def objects_of(p, pixels, labels, num_objects):
    """For each object its point (x, y) in [0, 1] and its mask, or None if it has no pixel."""
    height, width = p.shape
    result = []
    for index in range(num_objects):
        members = [pixel for pixel, label in zip(pixels, labels, strict=True) if label == index]
        if not members:
            result.append(None)
            continue
        mask = np.zeros_like(p)
        for x, y in members:
            mask[y, x] = p[y, x]
        best = max(p[y, x] for x, y in members)
        x, y = next((x, y) for x, y in members if p[y, x] == best)
        result.append((((x + 0.5) / width, (y + 0.5) / height), mask))
    return result


def assert_objects(prompts, image, category, expected):
    for k, reference in enumerate(expected):
        assert prompts.valid[image, category, k].item() == (reference is not None)
        if reference is not None:
            point, mask = reference
            torch.testing.assert_close(
                prompts.points[image, category, k], torch.tensor(point, dtype=torch.float32)
            )
            np.testing.assert_allclose(prompts.masks[image, category, k], mask, atol=1e-5)


def test_equals_scikit_learn():
    """On maps where no pixel ever lies between two centres the tie rule plays no part."""
    correlation = torch.randn(1, 250, 7, 9)
    num_objects, compared = 3, 0
    prompts = PseudoPromptGenerator(threshold=0.4, num_objects=num_objects, num_iterations=60)(
        correlation, ONE
    )
    for category in range(correlation.shape[1]):
        p = peak_normalised(correlation[0, category].numpy(), 1.0)
        pixels, peak = pixels_and_peak(p, 0.4)
        if len(pixels) <= num_objects:
            continue
        seeds = slow_seeds(pixels, peak, num_objects)
        _, margin = slow_lloyd(pixels, seeds, 60)
        if margin < 1e-3:
            continue
        kmeans = KMeans(
            num_objects,
            init=np.array(seeds, dtype=np.float64),
            n_init=1,
            max_iter=300,
            tol=0,
            algorithm='lloyd',
        ).fit(np.array(pixels, dtype=np.float64))
        assert_objects(prompts, 0, category, objects_of(p, pixels, kmeans.labels_, num_objects))
        compared += 1
    assert compared >= 30


@pytest.mark.parametrize('shape', [(6, 6), (4, 11), (9, 5)])
@pytest.mark.parametrize('num_objects', [1, 2, 5])
@pytest.mark.parametrize('scale', [0.5, 2.0])
def test_equals_slow_loop_with_ties(shape, num_objects, scale):
    """Few grey levels: equal peaks, equally far seeds, pixels between two centres."""
    correlation = torch.randint(0, 3, (2, 4, *shape)).float()
    iterations = 4
    generator = PseudoPromptGenerator(
        threshold=0.3, num_objects=num_objects, num_iterations=iterations
    )
    prompts = generator(correlation, torch.tensor(scale))
    for image in range(2):
        for category in range(4):
            p = peak_normalised(correlation[image, category].numpy(), scale)
            pixels, peak = pixels_and_peak(p, 0.3)
            labels, _ = slow_lloyd(pixels, slow_seeds(pixels, peak, num_objects), iterations)
            expected = objects_of(p, pixels, labels, num_objects)
            assert_objects(prompts, image, category, expected)
            np.testing.assert_array_equal(prompts.region[image, category], p >= 0.3)


@pytest.mark.parametrize('iterations', [0, 1, 2])
def test_number_of_iterations(iterations):
    """Before it converges the result is that of exactly so many updates."""
    correlation = torch.randn(1, 6, 24, 20)
    prompts = PseudoPromptGenerator(num_objects=4, threshold=0.01, num_iterations=iterations)(
        correlation, ONE
    )
    results = []
    for category in range(6):
        p = peak_normalised(correlation[0, category].numpy(), 1.0)
        pixels, peak = pixels_and_peak(p, 0.01)
        seeds = slow_seeds(pixels, peak, 4)
        labels, _ = slow_lloyd(pixels, seeds, iterations)
        assert_objects(prompts, 0, category, objects_of(p, pixels, labels, 4))
        results.append((labels != slow_lloyd(pixels, seeds, iterations + 1)[0]).any())
    assert any(results), 'all maps had converged: nothing was tested'


def far_seeds(coordinates, region, peak, num_seeds, min_distance=0.0):
    """The peak and, with no pixel near them, the places (50, 50), (51, 51), ..."""
    centers = torch.arange(50.0, 50 + num_seeds)[None, :, None].repeat(len(region), 1, 2)
    centers[:, 0] = coordinates[peak]
    return centers, torch.ones(len(region), num_seeds, dtype=torch.bool)


def test_centre_without_pixels():
    """It stays where it is; an invalid one gets no pixel however near it lies."""
    y, x = np.mgrid[:3, :4]
    coordinates = torch.from_numpy(np.stack([x, y], -1).reshape(-1, 2)).float()
    region = torch.ones(1, 12, dtype=torch.bool)
    region[0, 5] = False
    # the second loses its pixels to the first if it is drawn to the origin
    centers = torch.tensor([[[1.0, 1.0], [30.0, 30.0], [1.5, 1.0], [3.0, 2.0]]])
    valid = torch.tensor([[True, True, False, True]])
    members = module.batched_kmeans(coordinates, region, centers, valid, 3)
    pixels = [tuple(c) for c, inside in zip(coordinates.tolist(), region[0], strict=True) if inside]
    labels, _ = slow_lloyd(pixels, centers[0, [0, 1, 3]].tolist(), 3)
    expected = torch.zeros(4, 12, dtype=torch.bool)
    expected[torch.tensor([0, 1, 3])[labels], torch.arange(12)[region[0]]] = True
    assert members[0].equal(expected)
    assert members[0].any(1).tolist() == [True, False, False, True]


def test_object_without_pixels_is_invalid(monkeypatch):
    monkeypatch.setattr(module, 'farthest_point_seeds', far_seeds)
    prompts = PseudoPromptGenerator(num_objects=3)(torch.randn(1, 2, 4, 4), ONE)
    assert prompts.valid.tolist() == [[[True, False, False]] * 2]
    assert not prompts.masks[:, :, 1:].any()


def test_all_equal_map():
    correlation = torch.full((1, 1, 5, 7), 0.3)
    prompts = PseudoPromptGenerator(num_objects=4, num_iterations=30)(correlation, ONE)
    p = np.ones((5, 7))
    pixels, _ = pixels_and_peak(p, 0.5)
    labels, _ = slow_lloyd(pixels, slow_seeds(pixels, (0, 0), 4), 30)
    assert_objects(prompts, 0, 0, objects_of(p, pixels, labels, 4))
    assert prompts.region.all()
    assert prompts.valid.all()


def test_single_peak():
    """One pixel: one object in the centre of that pixel, (x, y) and not (y, x)."""
    correlation = torch.zeros(1, 1, 4, 10)
    correlation[0, 0, 3, 2] = 20
    prompts = PseudoPromptGenerator(num_objects=3)(correlation, ONE)
    assert prompts.valid.tolist() == [[[True, False, False]]]
    torch.testing.assert_close(prompts.points[0, 0, 0], torch.tensor([2.5 / 10, 3.5 / 4]))
    expected = torch.zeros(4, 10)
    expected[3, 2] = 1
    assert prompts.masks[0, 0, 0].equal(expected)
    assert prompts.region[0, 0].equal(expected.bool())
    assert not prompts.masks[0, 0, 1:].any()


def test_fewer_pixels_than_objects():
    """Each pixel is an object of its own, the rest is invalid and empty."""
    correlation = torch.zeros(1, 1, 3, 8)
    correlation[0, 0, 0, 1] = 20.3
    correlation[0, 0, 2, 6] = 20.2
    correlation[0, 0, 0, 3] = 20.1
    prompts = PseudoPromptGenerator(num_objects=5)(correlation, ONE)
    assert prompts.valid[0, 0].tolist() == [True, True, True, False, False]
    centres = torch.tensor([[1.5, 0.5], [6.5, 2.5], [3.5, 0.5]]) / torch.tensor([8.0, 3.0])
    torch.testing.assert_close(prompts.points[0, 0, :3], centres)
    assert (prompts.masks[0, 0, :3] > 0).flatten(1).sum(1).tolist() == [1, 1, 1]
    assert not prompts.masks[0, 0, 3:].any()


def test_empty_region():
    """A map of NaN has no object; the other maps do not notice."""
    correlation = torch.randn(2, 3, 6, 5)
    expected = PseudoPromptGenerator()(correlation, ONE)
    broken = correlation.clone()
    broken[0, 1] = torch.nan
    prompts = PseudoPromptGenerator()(broken, ONE)
    assert not prompts.valid[0, 1].any()
    assert not prompts.region[0, 1].any()
    others = torch.ones(2, 3, dtype=torch.bool)
    others[0, 1] = False
    for name in ('points', 'valid', 'masks', 'region'):
        assert getattr(prompts, name)[others].equal(getattr(expected, name)[others]), name


def test_objects_partition_the_region():
    correlation = torch.randn(2, 5, 12, 9)
    prompts = PseudoPromptGenerator(threshold=0.2, num_objects=4)(correlation, ONE)
    p = (correlation - correlation.amax((2, 3), keepdim=True)).exp()
    assert prompts.region.equal(p >= 0.2)
    inside = prompts.masks > 0
    assert inside.sum(2).equal(prompts.region.long())  # exactly one object at each pixel
    torch.testing.assert_close(prompts.masks.sum(2), p * prompts.region)  # which holds p^
    assert inside.flatten(3).any(-1).equal(prompts.valid)
    x, y = (prompts.points * torch.tensor([9.0, 12.0])).long().unbind(-1)
    at_point = prompts.masks.flatten(3).gather(3, (y * 9 + x)[..., None])[..., 0]
    assert at_point.equal(prompts.masks.amax((3, 4)))


def test_shapes_and_types():
    prompts = PseudoPromptGenerator(num_objects=4)(torch.randn(2, 3, 5, 7), ONE)
    assert prompts.points.shape == (2, 3, 4, 2)
    assert prompts.valid.shape == (2, 3, 4)
    assert prompts.masks.shape == (2, 3, 4, 5, 7)
    assert prompts.region.shape == (2, 3, 5, 7)
    assert prompts.presence.shape == (2, 3)
    assert prompts.points.dtype == prompts.masks.dtype == prompts.presence.dtype == torch.float32
    assert prompts.valid.dtype == prompts.region.dtype == torch.bool


def test_a_class_does_not_see_other_classes_or_images():
    correlation = torch.randn(3, 4, 7, 6)
    generator = PseudoPromptGenerator(num_objects=4, threshold=0.3)
    together = generator(correlation, ONE)
    for image in range(3):
        for category in range(4):
            alone = generator(correlation[image, category][None, None], ONE)
            for name in ('points', 'valid', 'masks', 'region'):
                whole = getattr(together, name)[image, category]
                assert getattr(alone, name)[0, 0].equal(whole), name


def test_presence():
    """Softmax over the classes of each one's highest logit."""
    correlation = torch.randn(2, 3, 4, 5)
    presence = PseudoPromptGenerator()(correlation, torch.tensor(7.0)).presence
    for image in range(2):
        weights = [float((7 * correlation[image, n].max()).exp()) for n in range(3)]
        expected = torch.tensor([weight / sum(weights) for weight in weights])
        torch.testing.assert_close(presence[image], expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision(dtype):
    """Computed in float32 whatever comes in, also under autocast, where means have 8 bits."""
    correlation = torch.randn(1, 4, 24, 24).to(dtype)
    generator = PseudoPromptGenerator(threshold=0.01)
    expected = generator(correlation.float(), ONE)
    prompts = generator(correlation, ONE.to(dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        autocast = generator(correlation, ONE.to(dtype))
    for name, value in vars(expected).items():
        assert getattr(prompts, name).equal(value), name
        assert getattr(autocast, name).equal(value), name


def test_no_gradient():
    correlation = torch.randn(1, 2, 4, 4, requires_grad=True)
    scale = torch.tensor(10.0, requires_grad=True)
    generator = PseudoPromptGenerator()
    prompts = generator(correlation, scale)
    assert not any(value.requires_grad for value in vars(prompts).values())
    assert list(generator.parameters()) == []


def test_region_includes_the_threshold():
    threshold = float(torch.tensor(-1.0).exp())
    below = torch.nextafter(torch.tensor(-1.0), torch.tensor(-2.0))
    correlation = torch.tensor([0.0, -1.0, float(below) - 1e-6, -3.0]).view(1, 1, 2, 2)
    region = PseudoPromptGenerator(threshold=threshold)(correlation, ONE).region
    assert region.flatten().tolist() == [True, True, False, False]
    only_peaks = torch.tensor([1.0, 0.9999, 1.0, -3.0]).view(1, 1, 2, 2)
    region = PseudoPromptGenerator(threshold=1.0)(only_peaks, ONE).region
    assert region.flatten().tolist() == [True, False, True, False]


def test_logit_scale_is_the_inverse_temperature():
    correlation = torch.randn(1, 3, 6, 6)
    generator = PseudoPromptGenerator()
    scaled = generator(correlation * 3, ONE)
    prompts = generator(correlation, torch.tensor(3.0))
    assert prompts.region.equal(scaled.region)
    assert prompts.region.sum() < generator(correlation, ONE).region.sum()


def blobs(*centres, shape=(12, 16)):
    """Log probabilities of round plateaus."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    correlation = np.full(shape, -9.0, dtype=np.float32)
    for order, (u, v) in enumerate(centres):
        inside = (x - u) ** 2 + (y - v) ** 2 <= 2
        correlation[inside] = -0.01 * order
    return torch.from_numpy(correlation)


def test_automatic_number_of_objects():
    maps = torch.stack([blobs((3, 3)), blobs((3, 3), (12, 8)), blobs((2, 2), (8, 9), (13, 2))])
    generator = PseudoPromptGenerator(num_objects='auto', auto_distance=0.3, max_objects=5)
    prompts = generator(maps[None], ONE)
    assert prompts.valid.shape == (1, 3, 5)
    assert prompts.valid[0].sum(1).tolist() == [1, 2, 3]
    for category in range(3):
        p = peak_normalised(maps[category].numpy(), 1.0)
        pixels, peak = pixels_and_peak(p, 0.5)
        seeds = slow_seeds(pixels, peak, 5, min_distance=0.3 * 16)
        labels, _ = slow_lloyd(pixels, seeds, 10)
        assert_objects(prompts, 0, category, objects_of(p, pixels, labels, 5))


def test_automatic_number_has_a_limit():
    maps = blobs((2, 2), (8, 9), (13, 2))[None, None]
    generator = PseudoPromptGenerator(num_objects='auto', max_objects=2)
    assert generator(maps, ONE).valid.tolist() == [[[True, True]]]


def test_automatic_distance_is_a_share_of_the_longer_side():
    """Two pixels 6 apart on a 12 x 4 grid: apart by less than 0.51 of 12, by more than 0.49."""
    correlation = torch.full((1, 1, 12, 4), -9.0)
    correlation[0, 0, 2, 1] = 0
    correlation[0, 0, 8, 1] = -0.1
    for share, number in ((0.49, 2), (0.5, 1), (0.51, 1)):
        for view in (correlation, correlation.transpose(2, 3)):
            generator = PseudoPromptGenerator(num_objects='auto', auto_distance=share)
            assert generator(view, ONE).valid.sum() == number


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(threshold=0.0),
        dict(threshold=1.01),
        dict(threshold=-0.5),
        dict(num_objects=0),
        dict(num_objects=2.5),
        dict(num_objects='many'),
    ],
)
def test_bad_arguments(kwargs):
    name = next(iter(kwargs))
    with pytest.raises(ESCNetError, match=name):
        PseudoPromptGenerator(**kwargs)
