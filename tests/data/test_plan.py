"""The numbers of an epoch belong to its seed, to a purpose and to an image, and to nothing else."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers import make_data
from resight.data.plan import EpochPlan, balanced, beta, generator
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment

FULL = Augment(crop_pad_px=4, flip="random", cutout_px=8)
TURNED = FULL.model_copy(update={"rotate_deg": 10.0, "contrast": 0.2})


def draw(
    n: int = 100, *, size: int = 32, augment: Augment = FULL, seed: int = 0, epoch: int = 0
) -> EpochPlan:
    return EpochPlan.draw(n, size, augment, seed=seed, epoch=epoch)


def parts(plan: EpochPlan) -> list[torch.Tensor]:
    return [part for part in vars(plan).values() if part is not None]


def same(one: EpochPlan, other: EpochPlan) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(parts(one), parts(other), strict=True)]


def p_uniform(counts: np.ndarray) -> float:
    return float(stats.chisquare(counts).pvalue)


def test_types_and_shapes() -> None:
    plan = draw(7)

    assert [(part.dtype, tuple(part.shape)) for part in parts(plan)] == [
        (torch.int64, (7,)),
        (torch.int64, (7, 2)),
        (torch.bool, (7,)),
        (torch.int64, (7, 2)),
    ]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10_000))
def test_the_same_seed_and_epoch_give_the_same_numbers(seed: int, epoch: int) -> None:
    assert same(draw(seed=seed, epoch=epoch), draw(seed=seed, epoch=epoch)) == [True] * 4


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1), (1, 1), (10, 0), (0, 10)])
def test_another_seed_or_epoch_gives_others(seed: int, epoch: int) -> None:
    assert same(draw(), draw(seed=seed, epoch=epoch)) == [False] * 4


def test_seed_and_epoch_are_not_run_together() -> None:
    assert same(draw(seed=1, epoch=12), draw(seed=11, epoch=2)) == [False] * 4


def test_purposes_have_streams_of_their_own() -> None:
    seeds = {
        generator(seed, epoch, purpose).initial_seed()
        for seed in range(5)
        for epoch in range(5)
        for purpose in ("order", "crop", "flip", "cutout", "init")
    }

    assert len(seeds) == 125


def test_the_numbers_are_those_of_the_first_release() -> None:
    """A run that is resumed or repeated with another version must see the same images."""
    plan = draw(5, seed=3, epoch=2)

    assert plan.order.tolist() == [4, 2, 3, 1, 0]
    assert plan.shifts is not None
    assert plan.shifts.tolist() == [[8, 8], [0, 5], [3, 3], [3, 4], [4, 6]]
    assert plan.flips is not None
    assert plan.flips.tolist() == [True, False, False, False, True]
    assert plan.boxes is not None
    assert plan.boxes.tolist() == [[23, 24], [11, 9], [8, 23], [15, 17], [13, 8]]


@settings(max_examples=40)
@given(
    n=st.integers(1, 300),
    size=st.integers(9, 40),
    pad=st.integers(1, 8),
    cutout=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 100),
)
def test_the_order_is_a_permutation_and_the_numbers_lie_in_their_ranges(
    n: int, size: int, pad: int, cutout: int, seed: int, epoch: int
) -> None:
    augment = Augment(crop_pad_px=pad, flip="random", cutout_px=cutout)
    plan = draw(n, size=size, augment=augment, seed=seed, epoch=epoch)

    assert sorted(plan.order.tolist()) == list(range(n))
    assert plan.shifts is not None
    assert plan.boxes is not None
    assert 0 <= int(plan.shifts.min()) <= int(plan.shifts.max()) <= 2 * pad
    assert 0 <= int(plan.boxes.min()) <= int(plan.boxes.max()) <= size - cutout


def test_turns_and_tints_are_uniform_and_leave_the_others_as_they_were() -> None:
    plan, plain = draw(20_000, augment=TURNED, seed=1), draw(20_000, seed=1)
    for part, columns in ((plan.turns, 2), (plan.tints, 3)):
        assert part is not None
        assert part.shape == (20_000, columns)
        for column in part.numpy().T:
            assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 0.001
    for name in ("order", "shifts", "flips", "boxes"):
        assert torch.equal(getattr(plan, name), getattr(plain, name)), name
    assert plain.turns is plain.tints is None


RARE = {"hue_deg": 20.0, "grey": 0.3, "blur": 0.4, "blur_px": 1.5, "erase": 0.6, "erase_area": 0.2}
RANDOM = {"randaugment": 2, "randaugment_magnitude": 9}
ALL = FULL.model_copy(update={**RARE, **RANDOM, "rotate_deg": 10.0, "contrast": 0.2, "mixup": 0.4})


@pytest.mark.parametrize(
    ("off", "missing"),
    [
        ({"randaugment": 0, "randaugment_magnitude": 0}, "operations"),
        ({"hue_deg": 0.0}, "hues"),
        ({"grey": 0.0}, "greys"),
        ({"blur": 0.0, "blur_px": 0.0}, "blurs"),
        ({"erase": 0.0, "erase_area": 0.0}, "erased"),
    ],
)
def test_what_is_drawn_for_one_leaves_all_others_as_they_were(
    off: dict[str, Any], missing: str
) -> None:
    full, less = draw(augment=ALL), draw(augment=ALL.model_copy(update=off))
    assert getattr(less, missing) is None
    for name, part in vars(full).items():
        if part is None or name in (missing, "patches"):
            continue
        if (name, missing) != ("strengths", "operations"):
            assert torch.equal(part, getattr(less, name)), name


def test_each_purpose_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    purposes: list[str] = []

    def noted(seed: int, epoch: int, purpose: str) -> torch.Generator:
        purposes.append(purpose)
        return generator(seed, epoch, purpose)

    monkeypatch.setattr("resight.data.plan.generator", noted)
    draw(augment=ALL.model_copy(update={"cutmix": 1.0}))
    assert len(purposes) == len(set(purposes)) == 17


def test_hues_greys_and_blurs_are_drawn_as_often_and_as_much_as_asked() -> None:
    plan = draw(20_000, augment=ALL, seed=4)
    assert plan.hues is not None
    assert plan.greys is not None
    assert plan.blurs is not None
    assert stats.kstest(plan.hues.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.001
    assert stats.binomtest(int(plan.greys.sum()), 20_000, 0.3).pvalue > 0.001
    blurred = plan.blurs[plan.blurs > 0]
    assert stats.binomtest(len(blurred), 20_000, 0.4).pvalue > 0.001
    assert stats.kstest(blurred.numpy(), stats.uniform(0, 1.5).cdf).pvalue > 0.001


@pytest.mark.parametrize("area", [0.01, 0.3, 1.0])
def test_erased_rectangles_have_the_area_and_the_shape_of_the_paper(area: float) -> None:
    size = 400
    augment = Augment(erase=0.6, erase_area=area)
    erased = draw(20_000, size=size, augment=augment, seed=4).erased
    assert erased is not None
    top, left, height, width = erased[erased[:, 2] > 0].numpy().T
    assert stats.binomtest(len(top), 20_000, 0.6).pvalue > 0.001
    assert ((top >= 0) & (top + height <= size) & (left >= 0) & (left + width <= size)).all()
    least = min(0.02, area)
    found = height * width / size**2
    # whole pixels: half a pixel of the shorter side
    off = 0.5 / np.minimum(height, width)
    assert (found >= least * (1 - 2 * off)).all()
    assert (found <= area * (1 + 2 * off)).all()
    if area == 0.3:
        assert stats.kstest(found, stats.uniform(least, area - least).cdf).pvalue > 1e-3
        free = found < 0.25  # of no image's height
        ratios = np.log(height[free] / width[free])
        most = np.log(1 / 0.3)
        assert stats.kstest(ratios, stats.uniform(-most, 2 * most).cdf).pvalue > 1e-3
        inside = (height == 100) & (width < 300)
        assert stats.kstest(top[inside] / 301, "uniform").pvalue > 0.001


@settings(max_examples=40)
@given(size=st.integers(1, 40), area=st.floats(0.001, 1), p=st.floats(0.001, 1))
def test_rectangles_lie_in_images_of_any_size(size: int, area: float, p: float) -> None:
    augment = Augment(crop_pad_px=0, cutout_px=0, erase=p, erase_area=area)
    erased = draw(50, size=size, augment=augment).erased
    assert erased is not None
    assert bool((erased >= 0).all())
    assert bool((erased[:, :2] + erased[:, 2:] <= size).all())


@pytest.mark.parametrize("mixed", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1, "cutmix": 1}])
def test_mixing_leaves_the_others_as_they_were(mixed: dict[str, float]) -> None:
    plan, plain = draw(augment=FULL.model_copy(update=mixed)), draw()
    assert plan.partners is not None
    assert (plan.patches is None) == ("cutmix" not in mixed)
    unmixed = plan.unmixed()
    assert same(unmixed, plain) == [True] * 4
    assert unmixed.partners is unmixed.shares is unmixed.patches is None


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 7.0])
def test_beta_is_scipys(alpha: float) -> None:
    uniform = torch.from_numpy(np.random.default_rng(1).random((20_000, 2)))
    drawn = beta(uniform, alpha)
    assert drawn.dtype == torch.float64
    assert stats.kstest(drawn.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])  # of smaller ones float32 rounds many to 1
def test_mixups_shares_are_betas(alpha: float) -> None:
    plan = draw(20_000, augment=Augment(mixup=alpha), seed=2)
    assert plan.shares is not None
    assert plan.shares.dtype == torch.float32
    assert stats.kstest(plan.shares.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 50.0, 1e4])
def test_beta_of_any_number_and_alpha_is_a_share(alpha: float) -> None:
    corners = [(a, b) for a in (0.0, 0.5, 1 - 2**-53) for b in (0.0, 0.25, 0.5, 1 - 2**-53)]
    some = np.random.default_rng(0).random((1000, 2))
    drawn = beta(torch.from_numpy(np.concatenate([corners, some])), alpha)
    assert bool(((drawn >= 0) & (drawn <= 1)).all())


def test_cutmixs_shares_are_what_the_patches_leave_and_betas_but_for_whole_pixels() -> None:
    n, size = 20_000, 200
    plan = draw(n, size=size, augment=Augment(cutmix=0.7), seed=2)
    assert plan.shares is not None
    assert plan.patches is not None
    top, left, side = plan.patches.numpy().T
    assert plan.shares.tolist() == (1 - (side / size) ** 2).astype(np.float32).tolist()
    assert min(top.min(), left.min()) >= 0
    assert max((top + side).max(), (left + side).max()) <= size
    # the side of a patch is that of Beta's rest, rounded
    below = stats.beta(0.7, 0.7).cdf(1 - np.clip((np.arange(size + 1) - 0.5) / size, 0, None) ** 2)
    expected = n * (below - np.append(below[1:], 0))
    found = np.bincount(side, minlength=size + 1)
    assert expected.min() > 3
    assert stats.chisquare(found, expected).pvalue > 0.001
    small = side == 50
    assert stats.kstest(top[small] / 151, "uniform").pvalue > 0.001
    assert stats.kstest(left[small] / 151, "uniform").pvalue > 0.001


def test_with_both_each_image_takes_mixup_or_cutmix() -> None:
    augment = Augment(mixup=0.4, cutmix=1.0)
    n = 20_000
    both, mixup, cutmix = (
        draw(n, augment=augment.model_copy(update=off), seed=3)
        for off in ({}, {"cutmix": 0.0}, {"mixup": 0.0})
    )
    cut = both.patches[:, 2] > 0
    whole = cutmix.patches[:, 2] == 0  # of Beta's rest not half a pixel is left
    assert stats.binomtest(int(cut.sum()), n - int(whole.sum())).pvalue > 0.001
    assert torch.equal(both.patches[cut], cutmix.patches[cut])
    assert torch.equal(both.shares[cut], cutmix.shares[cut])
    blended = ~cut & ~whole
    assert torch.equal(both.shares[blended], mixup.shares[blended])
    assert torch.equal(both.partners, mixup.partners)


def test_partners_are_any_images_as_often_as_the_epoch_has_them() -> None:
    partners = torch.stack(
        [draw(50, augment=Augment(mixup=1), epoch=e).partners for e in range(99)]
    )
    assert p_uniform(np.bincount(partners.flatten().numpy(), minlength=50)) > 0.001
    own = (partners == torch.arange(50)).float().mean()
    assert 0.01 < float(own) < 0.03


@pytest.mark.parametrize(
    ("off", "missing"),
    [
        ({"crop_pad_px": 0}, "shifts"),
        ({"flip": "none"}, "flips"),
        ({"cutout_px": 0}, "boxes"),
    ],
)
def test_switching_one_off_leaves_the_others_as_they_were(
    off: dict[str, Any], missing: str
) -> None:
    names = {"order", "shifts", "flips", "boxes"}
    full, less = draw(), draw(augment=FULL.model_copy(update=off))

    assert getattr(less, missing) is None
    for name in names - {missing}:
        assert torch.equal(getattr(full, name), getattr(less, name)), name


def test_other_sizes_of_one_leave_the_others_as_they_were() -> None:
    full = draw()
    other = draw(size=40, augment=Augment(crop_pad_px=2, flip="random", cutout_px=5))

    assert same(full, other) == [True, False, True, False]


def test_alternating_flips_change_sides_each_epoch() -> None:
    augment = Augment(flip="alternating")
    flips = [draw(1000, augment=augment, seed=5, epoch=epoch).flips for epoch in range(6)]

    for now, after in itertools.pairwise(flips):
        assert now is not None
        assert after is not None
        assert torch.equal(now, ~after)
    assert flips[0] is not None
    assert 400 < int(flips[0].sum()) < 600


def test_alternating_begins_as_random_does() -> None:
    assert same(draw(augment=Augment(flip="alternating")), draw()) == [True] * 4


def test_drawing_moves_no_global_generator() -> None:
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    draw(1000, seed=3, epoch=4)

    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_a_global_seed_moves_no_plan() -> None:
    torch.manual_seed(1)
    one = draw()
    torch.manual_seed(2)

    assert same(one, draw()) == [True] * 4


def test_nothing_of_the_pixels_goes_in() -> None:
    assert list(inspect.signature(EpochPlan.draw).parameters) == [
        "n",
        "image_size",
        "augment",
        "seed",
        "epoch",
        "images",
    ]


def test_the_copy_for_a_device_holds_the_same() -> None:
    plan = draw()
    partial = draw(augment=Augment(crop_pad_px=0, flip="none", cutout_px=0))

    assert same(plan.to(torch.device("cpu")), plan) == [True] * 4
    moved = partial.to(torch.device("cpu"))
    assert (moved.shifts, moved.flips, moved.boxes) == (None, None, None)


def test_shifts_are_uniform_in_both_directions_and_independent() -> None:
    shifts = draw(50_000).shifts
    assert shifts is not None
    rows, cols = shifts.numpy().T

    assert p_uniform(np.bincount(rows * 9 + cols, minlength=81)) > 0.001
    assert len(np.bincount(rows * 9 + cols)) == 81


def test_boxes_are_uniform_over_all_whole_positions() -> None:
    boxes = draw(50_000, size=12, augment=Augment(cutout_px=5)).boxes
    assert boxes is not None
    rows, cols = boxes.numpy().T
    counts = np.bincount(rows * 8 + cols, minlength=64)

    assert len(counts) == 64
    assert p_uniform(counts) > 0.001


def test_flips_are_fair() -> None:
    flips = draw(50_000).flips
    assert flips is not None
    mirrored = int(flips.sum())

    assert p_uniform(np.array([mirrored, 50_000 - mirrored])) > 0.001


def test_over_the_epochs_each_image_gets_every_flip_and_shift() -> None:
    plans = [draw(40, augment=Augment(crop_pad_px=1), epoch=epoch) for epoch in range(200)]
    flips = torch.stack([plan.flips for plan in plans if plan.flips is not None])
    shifts = torch.stack([plan.shifts for plan in plans if plan.shifts is not None])
    places = shifts[..., 0] * 3 + shifts[..., 1]

    assert bool((flips.float().mean(0) - 0.5).abs().max() < 0.15)
    assert all(len(torch.unique(places[:, image])) == 9 for image in range(40))


def test_the_first_image_of_the_epochs_is_uniform() -> None:
    first = [int(draw(10, epoch=epoch).order[0]) for epoch in range(2000)]

    assert p_uniform(np.bincount(first, minlength=10)) > 0.001


def labels_of(*counts: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def test_balanced_classes_are_equally_frequent() -> None:
    labels = labels_of(200, 60, 20, 8, 2)
    images = balanced(labels, seed=0, epoch=0)
    assert torch.bincount(labels[images]).tolist() == [58] * 5
    times = torch.bincount(images, minlength=290).split([200, 60, 20, 8, 2])
    assert [(int(part.min()), int(part.max())) for part in times] == [
        (0, 1),
        (0, 1),
        (2, 3),
        (7, 8),
        (29, 29),
    ]


def test_a_balanced_epoch_is_the_one_of_the_first_release() -> None:
    assert balanced(labels_of(5, 2, 1), seed=3, epoch=2).tolist() == [0, 2, 1, 6, 5, 6, 7, 7]


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
    order=st.randoms(),
)
def test_whatever_the_classes_hold_they_are_balanced(
    counts: list[int], seed: int, epoch: int, order: Any
) -> None:
    n, there = sum(counts), sum(count > 0 for count in counts)
    rows = list(range(n))
    order.shuffle(rows)
    labels = labels_of(*counts)[rows]
    images = balanced(labels, seed=seed, epoch=epoch)
    assert len(images) == n
    drawn = torch.bincount(labels[images], minlength=len(counts))
    for label, count in enumerate(counts):
        if not count:
            assert drawn[label] == 0
            continue
        assert n // there <= drawn[label] <= -(-n // there)
        times = torch.bincount(images, minlength=n)[labels == label]
        assert int(times.max()) - int(times.min()) <= 1
    assert torch.equal(images, balanced(labels, seed=seed, epoch=epoch))


def test_over_the_epochs_the_images_of_a_class_come_up_equally_often() -> None:
    labels = labels_of(30, 10)
    times = sum(
        torch.bincount(balanced(labels, seed=0, epoch=epoch), minlength=40) for epoch in range(300)
    )
    assert p_uniform(times[:30].numpy()) > 0.001  # type: ignore[index]
    assert times[30:].tolist() == [600] * 10  # type: ignore[index]


def test_the_class_that_has_one_more_is_drawn() -> None:
    labels = labels_of(3, 3, 1)  # 7 images: 3, 2 and 2
    most = [
        int(torch.bincount(labels[balanced(labels, seed=0, epoch=epoch)]).argmax())
        for epoch in range(300)
    ]
    assert p_uniform(np.bincount(most, minlength=3)) > 0.001


def of(sampling: str, epoch: int = 1, **augment: Any) -> EpochPlan:
    """Of 70 images of three classes."""
    changes: dict[str, Any] = {"train.sampling": sampling, "data.image_size": 8}
    changes |= {f"augment.{key}": value for key, value in augment.items()}
    return EpochPlan.of(Recipe().with_changes(changes), make_data(), epoch)


def test_balancing_leaves_all_other_numbers_as_they_were() -> None:
    uniform, plan = of("uniform", cutout_px=3), of("balanced", cutout_px=3)
    plain = Augment(crop_pad_px=4, flip="random", cutout_px=3)
    assert same(uniform, draw(70, size=8, augment=plain, epoch=1)) == [True] * 4
    assert uniform.images is None
    assert plan.images is not None
    labels = torch.from_numpy(make_data().train.labels)
    assert torch.equal(plan.images, balanced(labels, seed=0, epoch=1))
    for name in ("order", "shifts", "flips", "boxes"):
        assert torch.equal(getattr(plan, name), getattr(uniform, name)), name


def test_alternating_flips_show_the_repeats_of_an_image_both_ways() -> None:
    augment = Augment(crop_pad_px=0, flip="alternating", cutout_px=0)
    images = torch.tensor([2, 0, 2, 2, 0, 1, 2])
    first, second = (
        EpochPlan.draw(7, 8, augment, seed=4, epoch=epoch, images=images).flips for epoch in (0, 1)
    )
    assert first is not None
    assert second is not None
    assert torch.equal(second, ~first)
    assert first[[0, 2, 3, 6]].int().diff().abs().tolist() == [1, 1, 1]
    assert first[[1, 4]].int().diff().abs().tolist() == [1]
    once = EpochPlan.draw(7, 8, augment, seed=4, epoch=0, images=torch.arange(7)).flips
    plain = EpochPlan.draw(7, 8, augment, seed=4, epoch=0).flips
    assert once is not None
    assert plain is not None
    assert torch.equal(once, plain)
