"""Where each finding begins: the one table of thresholds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Where each finding begins; shares and accuracies in [0, 1]. `docs/diagnosis.md` says why."""

    # not learning, diverged
    chance_loss_share: float = 0.98  # of the loss of a net that knows only the class frequencies
    chance_accuracy_margin: float = 0.02  # above the largest class's share
    learnt_loss_share: float = 0.9  # of that loss: below it something had been learnt
    diverged_rise: float = 1.5  # last epoch's training loss over the lowest epoch's
    worse_than_chance: float = 1.2  # times the loss of knowing nothing, while it trains
    watch_steps: int = 100  # that are averaged while it trains, and that warm up at least
    falling: float = 0.98  # their second half's loss over the first's: it still learns
    # inputs
    own_mean_sd: float = 0.05  # the statistics against the train split's own, in sd of train
    split_mean_sd: float = 0.25  # a split's mean against the statistics, in sd of train
    split_sd_ratio: float = 1.5  # a split's sd over train's, or the other way round
    standard_errors: float = 5.0  # and by this much more than chance in a small split
    # train against test
    gap_note: float = 0.15  # train accuracy − test accuracy
    gap_problem: float = 0.30
    gap_standard_errors: float = 3.0  # of the test accuracy
    improving_gain: float = 0.005  # accuracy, over the last tenth of the epochs
    improving_standard_errors: float = 2.0
    improving_gap: float = 0.03  # train accuracy no more than this above test
    # the net
    batch_norm_drop: float = 0.10  # accuracy with batch statistics − with running statistics
    dead_note: float = 0.90  # channels of one layer that are 0 for every image
    dead_problem: float = 0.50  # of the whole net's
    # classes, labels, images
    imbalance_ratio: float = 5.0  # images of the largest class over the smallest's
    never_support: int = 5  # test images of a class that is never predicted
    never_images: int = 20  # test images a class on average: a problem
    leak_note: int = 1  # test images that are in train too, pixel for pixel
    leak_problem: float = 0.01  # share of the test images
    near_note: float = 0.01  # share of the test images with a near twin in train
    suspect_confidence: float = 0.95  # of the class that is predicted in place of the label
    suspect_label: float = 0.01  # probability of the label, at most
    overconfident_note: float = 0.05  # mean confidence − accuracy
    overconfident_problem: float = 0.20
    overconfident_standard_errors: float = 3.0


THRESHOLDS = Thresholds()
