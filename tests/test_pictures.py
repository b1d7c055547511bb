"""The pictures of the README and of the gallery: all there, in both colours, small, and of a page that still looks like that."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tools import pictures

ROOT = Path(__file__).parent.parent
TAG = re.compile(
    r'<picture>\n<source media="\(prefers-color-scheme: dark\)" srcset="(\S+)-dark\.png">\n<img src="(\S+)-light\.png" alt="([^"]+)"'
)


@pytest.mark.parametrize("page", ["README.md", "docs/gallery.md"])
def test_every_picture_is_there_in_both_colours_with_its_words_and_small(page):
    file = ROOT / page
    shown = TAG.findall(file.read_text("utf-8"))
    assert len(shown) == file.read_text("utf-8").count("<picture>") >= 2
    for dark, light, words in shown:
        assert dark == light
        assert len(words) > 40
        sizes = set()
        for scheme in pictures.SCHEMES:
            path = file.parent / f"{light}-{scheme}.png"
            assert path.stat().st_size < 200_000, path.name
            with Image.open(path) as image:
                sizes.add(image.size)
        assert len(sizes) == 1, "one page in two colours"


def test_the_readme_begins_with_the_comparison_and_the_lens_then_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    places = [
        text.index(mark) for mark in ("compare-light.png", "lens-light.png", "\n    make run\n", "\n    make test\n")
    ]
    assert places == sorted(places)


def test_the_pictures_that_are_kept_are_those_that_are_taken_and_the_gallery_has_them_all():
    taken = {f"{picture.name}-{scheme}.png" for picture in pictures.PICTURES for scheme in pictures.SCHEMES}
    assert {path.name for path in (ROOT / "docs" / "pictures").glob("*.png")} == taken
    in_sight = TAG.findall((ROOT / "docs" / "gallery.md").read_text("utf-8"))
    assert {light for _, light, _ in in_sight} == {f"pictures/{picture.name}" for picture in pictures.PICTURES}


def test_the_same_page_gives_the_same_bytes(visitor, url):
    """The comparison twice; the pictures after the lens take long and go the same way."""

    def taken(count: int) -> list[bytes]:
        page = visitor(url, reduced_motion="reduce")
        run = []
        for picture in pictures.PICTURES[:count]:
            picture.show(page)
            run.append(pictures.take(page, picture, "light"))
        return run

    compared, *framed = taken(3)
    [again] = taken(1)
    first, second = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in (compared, again))
    # Where the browser allows: on a busy machine it may draw a rounded corner by another shade. The 256 colours are then
    # chosen anew, which moves others by a level or two; a letter or a line that differs does so by many.
    differing = ImageChops.difference(first, second).convert("L").point(lambda level: level if level > 8 else 0)
    assert sum(differing.histogram()[1:]) <= 16, f"the box in which they differ: {differing.getbbox()}"
    widths = [Image.open(io.BytesIO(picture)).width for picture in (compared, *framed)]
    assert widths[0] == pictures.WIDTH
    assert all(widths[0] / 2 < width < widths[0] for width in widths[1:])
