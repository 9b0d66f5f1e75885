"""`Predictor`: a run's net with all that it takes to get from an image to probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from resight.data.batches import DeviceSplit
from resight.data.decode import check_pixels, decode_file, fit, pixels, plain, reason, upright
from resight.data.types import Split
from resight.engine.forward import Tta, predict
from resight.engine.runtime import Runtime, kept_threads
from resight.errors import ResightError
from resight.recipe.settings import Fit
from resight.runs.answers import Answers
from resight.runs.weights import Weights, load_model

Picture = str | Path | IO[bytes] | Image.Image | npt.NDArray[Any] | Tensor
BANDS = (1, 3, 4)  # grey, RGB, RGB with opacity


@dataclass(frozen=True)
class Predictor:
    """model: in eval mode, on the runtime's device; mean, std: float32 (C,), of x / 255; fit: how a
    photo becomes a square of `image_size` px; temperature: fitted on the validation split, 1 where
    the run has none."""

    model: nn.Module
    classes: tuple[str, ...]
    channels: int
    image_size: int
    fit: Fit
    mean: Tensor
    std: Tensor
    tta: Tta
    runtime: Runtime
    temperature: float = 1.0

    @classmethod
    def of(cls, weights: Weights, fit: Fit, runtime: Runtime, temperature: float | None) -> Self:
        about = weights.about
        return cls(
            model=load_model(weights).to(runtime.device),
            classes=tuple(about["classes"]),
            channels=about["channels"],
            image_size=about["image_size"],
            fit=fit,
            mean=torch.tensor(about["mean"], dtype=torch.float32),
            std=torch.tensor(about["std"], dtype=torch.float32),
            tta=about["tta"],
            runtime=runtime,
            temperature=temperature or 1.0,
        )

    def pixels(self, picture: Picture) -> npt.NDArray[np.uint8]:
        """What the net sees of a picture: (image_size, image_size, channels), not normalised.

        A file, its path or an open file, is decoded as those it was trained on. PIL images; arrays
        (H, W) or (H, W, C) and tensors (H, W) or (C, H, W), C = 1, 3 or 4, either uint8 or
        floating-point in [0, 1]. Raises `ResightError` for any other and for what can't be read.
        """
        path = str(picture) if isinstance(picture, str | Path) else ""
        try:
            if path or hasattr(picture, "read"):
                file: str | IO[bytes] = path or picture  # type: ignore[assignment]
                return decode_file(file, self.image_size, self.channels, self.fit)
            image = picture if isinstance(picture, Image.Image) else _image_of(picture)
            check_pixels(image)
            return pixels(fit(plain(upright(image), self.channels), self.image_size, self.fit))
        except ResightError:
            raise
        except Exception as error:  # Pillow's readers raise anything on a damaged file
            raise ResightError(f"{path or 'an image'}: {reason(error, path)}") from None

    def logits(
        self, images: npt.NDArray[np.uint8], *, between: Callable[[], None] = lambda: None
    ) -> npt.NDArray[np.float32]:
        """float32 (N, K) for uint8 (N, H, W, C), with the recipe's test-time augmentation."""
        if not len(images):
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        with kept_threads():
            self.runtime.apply_threads()
            logits = predict(
                self.model, self._placed(images), self.runtime, tta=self.tta, between=between
            )
        return np.asarray(logits.numpy(), dtype=np.float32)

    def normalized(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 (N, H, W, C) → float32 (N, C, H, W) on the device, as the net takes them."""
        return self._placed(images).plain(0, len(images))

    def answers(self, pictures: Iterable[Picture]) -> Answers:
        """What the net says of each picture, in their order. Named by their paths, others by their
        place: 0, 1, … Raises `ResightError` for one that can't be read."""
        given = list(pictures)
        names = [str(p) if isinstance(p, str | Path) else str(i) for i, p in enumerate(given)]
        side, channels = self.image_size, self.channels
        images = np.empty((len(given), side, side, channels), dtype=np.uint8)
        for row, picture in enumerate(given):
            images[row] = self.pixels(picture)
        return Answers(self.logits(images), tuple(names), self.classes, self.temperature)

    def _placed(self, images: npt.NDArray[np.uint8]) -> DeviceSplit:
        zeros = np.zeros(len(images), dtype=np.int64)  # the labels, which nothing reads
        return DeviceSplit.place(
            Split(np.ascontiguousarray(images), zeros, zeros.astype(np.str_)),
            self.mean,
            self.std,
            self.runtime.device,
            resident=self.runtime.fits(images.nbytes),
        )


def pictures_of(images: Picture | Iterable[Picture]) -> list[Picture]:
    """One picture, several, or an array (N, H, W, C) or tensor (N, C, H, W) of them, as a list."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    single = str | Path | Image.Image | np.ndarray | Tensor
    if isinstance(images, single) or hasattr(images, "read"):
        return [images]  # type: ignore[list-item]
    try:
        return list(images)
    except TypeError:  # no image either, which `pixels` says
        return [images]  # type: ignore[list-item]


def _image_of(values: Picture) -> Image.Image:
    """Raises `ResightError` for what is no image."""
    if not isinstance(values, np.ndarray | Tensor):
        raise ResightError(
            f"an image is of type {type(values).__name__}: must be a path, an open file, a "
            "PIL image, an array or a tensor"
        )
    shape = tuple(values.shape)
    if isinstance(values, Tensor):
        array = values.detach().cpu().float() if values.is_floating_point() else values.cpu()
        values = (array.movedim(0, -1) if array.ndim == 3 else array).numpy()
        shapes = "(H, W) or (C, H, W)"
    else:
        shapes = "(H, W) or (H, W, C)"
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in BANDS or not values.size:
        raise ResightError(f"an image of shape {shape} must be {shapes}, C = 1, 3 or 4")
    if np.issubdtype(values.dtype, np.floating):
        if not (values.min() >= 0 and values.max() <= 1):  # also where one is NaN
            raise ResightError(
                "an image with floating-point values must have them in [0, 1], not normalised"
            )
        values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise ResightError(f"an image of {values.dtype} must be uint8, or floating-point in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))
