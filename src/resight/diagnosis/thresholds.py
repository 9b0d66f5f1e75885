"""The thresholds of all findings, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Where each finding starts; shares and accuracies in [0, 1]. `docs/diagnosis.md` says why."""

    # not learning, diverged
    chance_loss_share: float = 0.98  # of the loss at chance level (class frequencies only)
    chance_accuracy_margin: float = 0.02  # above the largest class's share
    chance_standard_errors: float = 3.0  # of that accuracy, if that is more
    learnt_loss_share: float = 0.9  # of the loss at chance level: below, it has learnt something
    diverged_rise: float = 1.5  # last epoch's training loss / the lowest epoch's
    diverged_loss: float = 0.25  # of what it had gained on the chance-level loss, lost again
    worse_than_chance: float = 1.2  # × ln K, of a training's or a split's loss
    few_steps: int = 20  # before which a high loss says nothing
    watch_steps: int = 100  # averaged during training; also the minimum warm-up
    falling: float = 0.98  # loss of their second half / of the first: still learning
    # the LR
    own_lr_ratio: float = 3.0  # LR max / the one that the named recipe sets itself, or the inverse
    usual_lr_ratio: float = 30.0  # LR max / the optimizer's usual one, where the recipe sets none
    own_lr_learnt: float = 0.9  # train accuracy: above, the LR has done no harm
    early_lr_share: float = 0.2  # of LR max, at which early stopping ended a training
    # inputs
    own_mean_sd: float = 0.05  # statistics used − the train split's own, in sd of train
    split_mean_sd: float = 0.25  # a split's mean − the statistics used, in sd of train
    split_sd_ratio: float = 1.5  # a split's sd / train's, or the inverse
    split_sd_images: int = 30  # in the split, at least, to compare its sd
    standard_errors: float = 5.0  # of a small split's mean, on top of these
    # train against test
    gap_note: float = 0.15  # train accuracy − test accuracy
    gap_problem: float = 0.30
    gap_standard_errors: float = 3.0  # of the test accuracy
    randaugment_images: int = 50  # per class, from which it helps against a gap
    improving_gain: float = 0.005  # of accuracy over the last tenth of the epochs
    improving_standard_errors: float = 2.0
    improving_gap: float = 0.03  # train accuracy no more than this above test
    grown_drop: float = 0.10  # of train accuracy, from the last epoch before images grew
    # the net
    batch_norm_drop: float = 0.10  # accuracy with batch statistics − with running statistics
    dead_note: float = 0.90  # share of one layer's channels that are 0 for every image
    dead_problem: float = 0.50  # share of the whole net's channels
    # classes, labels, images
    guess_standard_errors: float = 3.0  # of balanced accuracy above chance: it knows something
    guess_memorised: float = 0.9  # train accuracy: above, more steps teach nothing more,
    guess_steps: int = 100  # if there were as many
    imbalance_ratio: float = 5.0  # images of the largest class / of the smallest
    unequal_ratio: float = 2.0  # the same, from which balancing the classes is advised
    # mistakes on train / images outside the largest class: below, balancing gains nothing
    rare_mistakes: float = 0.1
    never_support: int = 5  # test images of a class that is never predicted
    never_images: int = 20  # test images per class on average: a problem
    leak_note: int = 1  # test images that are also in train, pixel for pixel
    leak_problem: float = 0.01  # share of the test images
    near_note: float = 0.01  # share of the test images with a near duplicate in train
    suspect_confidence: float = 0.95  # of the class predicted instead of the label, at least
    suspect_label: float = 0.01  # probability of the label, at most
    overconfident_note: float = 0.05  # mean confidence − accuracy
    overconfident_problem: float = 0.20
    overconfident_standard_errors: float = 3.0


THRESHOLDS = Thresholds()
