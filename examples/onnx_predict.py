"""Classes of photos by an ONNX file from `resight export`, without Resight and without torch.

pip install numpy pillow onnxruntime
python onnx_predict.py model.onnx photo.jpg ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(path, size, channels, fit):
    """What the net sees of a photo: uint8 (size, size, channels), as in its training."""
    image = Image.open(path)
    image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a half, a quarter, …
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(int) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    box, (width, height) = None, image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    if fit == "pad" and (width, height) != (size, size):
        inside = [max(1, round(edge * size / max(width, height))) for edge in (width, height)]
        square = Image.new(image.mode, (size, size), (128,) * channels)
        corner = ((size - inside[0]) // 2, (size - inside[1]) // 2)
        square.paste(image.resize(inside, Image.Resampling.LANCZOS), corner)
        image = square
    elif (width, height) != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image).reshape(size, size, channels)


def main(model, *photos):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    images = [load(p, about["image_size"], about["channels"], about["fit"]) for p in photos]
    (logits,) = session.run(None, {"images": np.stack(images)})
    shares = np.exp((logits - logits.max(1, keepdims=True)) / about["temperature"])
    shares /= shares.sum(1, keepdims=True)
    for photo, share in zip(photos, shares, strict=True):
        best = share.argsort()[::-1][:3]
        print(photo, *(f"{about['classes'][i]} {share[i]:.1%}" for i in best), sep="  ")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
