"""What a reader is told: by a figure, by Markdown, by an LR test that is refused."""

from __future__ import annotations

import html
import io
import re

import numpy as np
import numpy.typing as npt
import pytest
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from resight.errors import ResightError
from resight.render.drawing import png
from resight.runs.lr_test import METHODS, LrTest


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def shown(text: str) -> str:
    """What a reader sees of rendered Markdown, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", rendered(text))).split())


def drawn(figure: Figure) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB"))


def words(figure: Figure) -> list[str]:
    """All that is written in the figure."""
    FigureCanvasAgg(figure).draw()
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def refusal(test: LrTest) -> str:
    with pytest.raises(ResightError) as caught:
        test.suggestions()
    message = str(caught.value)
    assert "\n" not in message
    assert "--lr" in message
    for method in METHODS:
        with pytest.raises(ResightError):
            test.suggest(method)
    with pytest.raises(ResightError):
        test.suggest_lr_min(0.1)
    return message
