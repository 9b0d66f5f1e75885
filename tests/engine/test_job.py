"""A job: a recipe, its images and the runtime, made ready to step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import batches, make_data
from jobs import runtime
from resight.data.types import ImageData
from resight.engine.job import build_job, prepare
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from trainings import fit, tiny


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_sees_the_same_augmented_images_as_the_cpu(data: ImageData) -> None:
    recipe = tiny("custom-resnet")
    jobs = [build_job(recipe, data, Runtime.choose(name, "fp32")) for name in ("cpu", "cuda")]
    images = []
    for job in jobs:
        plan = job.plan(1)
        index = next(iter(batches(job, plan)))
        images.append(job.train.augmented(index, plan, recipe.augment)[0].cpu())
    assert torch.allclose(images[0], images[1], atol=1e-6)


def test_prepare_takes_data_from_the_recipe() -> None:
    job = prepare("digits", None, runtime(), changes={})
    assert job.data.name == "digits"
    assert len(job.train) + len(job.test) == 1797


def test_images_of_another_size_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ResightError, match=r"the images are 12 px .* set data\.image_size = 12"):
        fit(tiny("digits"), make_data(size=12), tmp_path / "run")
