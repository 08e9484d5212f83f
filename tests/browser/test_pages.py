"""Every page of the built book, opened from disk with no network, wide and narrow, light and dark: troubles, pictures without a
text, headings that skip a level, text that is hard to read, and pages that scroll sideways. `make book` comes first."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from covidlib.book import BUILD

HTML = BUILD / "html"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="no book: make book first")]
PAGES = sorted(str(path.relative_to(HTML)) for folder in ("book", "notebooks") for path in (HTML / folder).glob("*.html"))
WITHOUT_ALT = """[...document.querySelectorAll('.bd-article img')]
    .filter(img => !img.alt.trim() || img.alt === img.src).map(img => img.src)"""
HEADINGS = "[...document.querySelectorAll('.bd-article :is(h1, h2, h3, h4, h5, h6)')].map(h => +h.tagName[1])"
WIDE = """[...document.querySelectorAll('.bd-article *')].filter(n => n.getBoundingClientRect().right > innerWidth + 1
    && !n.closest('.highlight, .cell_output, figure, .pst-scrollable-table-container, mjx-container'))
    .map(n => n.outerHTML.slice(0, 90))"""
LEFTOVERS = """() => {
    const walker = document.createTreeWalker(document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent;
        if (!walker.currentNode.parentElement.closest('code, pre, script, style, mjx-container') &&
            /`|\\*\\*|:::|\\]\\(|\\{\\{|\\{[a-z:]+\\}/.test(text)) found.push(text.trim());
    }
    return found;
}"""
HIDDEN = """[...document.querySelectorAll('.bd-article aside.margin')]
    .filter(note => note.getBoundingClientRect().right > innerWidth).map(note => note.innerText)"""
FILTERS = """[...document.querySelectorAll('.bd-article img')]
    .map(img => [img.src.endsWith('.svg'), getComputedStyle(img).filter])"""
FAINT = """() => {
    const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const parse = css => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = css;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => below.map((v, i) => i < 3 ? top[3] * top[i] + (1 - top[3]) * v : 1);
    const light = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => {
        const v = rgb[i] / 255;
        return sum + share * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    }, 0);
    const white = [255, 255, 255, 1], paint = node => parse(getComputedStyle(node).backgroundColor);
    const behind = node => node ? over(paint(node), behind(node.parentElement)) : white;
    const faint = new Set();
    const walker = document.createTreeWalker(document.querySelector('.bd-main'), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
        if (node.closest('mjx-container, script, style, noscript, .slice-canvas .edge, svg')) continue;
        const style = getComputedStyle(node), ground = behind(node);
        const [dark, bright] = [light(over(parse(style.color), ground)), light(ground)].sort((a, b) => a - b);
        const ratio = (bright + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
        const large = size >= 24 || size >= 18.66 && +style.fontWeight >= 700;
        if (ratio < (large ? 3 : 4.5))
            faint.add(`${ratio.toFixed(1)}: ${node.tagName}.${node.className} '${text.slice(0, 30)}'`);
    }
    return [...faint];
}"""


def test_the_book_is_there_to_be_looked_at() -> None:
    assert len(PAGES) > 10


class Links(HTMLParser):
    """What a page links to (href, src) and what can be linked to in it (ids)."""

    def __init__(self, path: Path):
        super().__init__()
        self.to, self.ids = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.to |= {value for key, value in attrs if key in ("href", "src") and value}
        self.ids |= {value for key, value in attrs if key == "id"}


def trouble(link: str, path: Path, pages: dict[Path, Links]) -> str:
    """Why a link of a page leads nowhere, as far as can be told without a network; "" if it leads somewhere."""
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return "" if url.scheme in ("https", "data") else "neither https nor in the book"
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    if not target.is_file():
        return "no such file"
    return "" if not url.fragment or unquote(url.fragment) in pages[target].ids else "no such anchor"


def test_every_link_leads_to_a_file_and_an_anchor_of_the_book_or_to_https() -> None:
    home = HTML.resolve()
    pages = {path: Links(path) for path in [*home.glob("*.html"), *(home / page for page in PAGES)]}
    found = [(link, path.name, trouble(link, path, pages)) for path, links in pages.items() for link in sorted(links.to)]
    assert [one for one in found if one[2]] == []


@pytest.fixture(params=PAGES)
def visit(opened, request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    opening = opened((HTML / request.param).as_uri(), HTML.as_uri(), color_scheme="light")
    for number in range(opening.page.locator("script[type='application/vnd.jupyter.widget-view+json']").count()):
        opening.page.locator(".slice-canvas").nth(number).get_by_text("slice").first.wait_for()
    yield opening
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)


def pictures(page) -> list[Path]:
    found = page.evaluate("[...document.querySelectorAll('.bd-article img[src$=png]')].map(img => img.src)")
    return [Path(unquote(urlsplit(address).path)) for address in found]


def is_dark_at_its_corner(picture: Path) -> bool:
    from PIL import Image

    return max(Image.open(picture).convert("RGB").getpixel((0, 0))) < 60


def test_search_finds_a_word_of_the_glossary_without_a_server(opened) -> None:
    opening = opened(f"{(HTML / 'search.html').as_uri()}?q=Tversky", HTML.as_uri())
    opening.page.locator("#search-results li a[href*='glossary']").first.wait_for()
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)


def test_page(visit) -> None:
    page = visit.page
    assert page.evaluate(WITHOUT_ALT) == []
    levels = page.evaluate(HEADINGS)
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), levels
    assert page.evaluate(FAINT) == []
    assert page.evaluate(LEFTOVERS) == []  # of Markdown
    assert [name for name in pictures(page) if not is_dark_at_its_corner(name)] == []  # scans are on black, charts are vectors
    assert {how for _, how in page.evaluate(FILTERS)} <= {"none"}
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(FAINT) == []
    turned = {(True, "invert(0.94) hue-rotate(180deg) brightness(1.2)"), (False, "none")}  # charts turned over, scans as they are
    assert set(map(tuple, page.evaluate(FILTERS))) <= turned
    for width in (1280, 1100, 800):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(HIDDEN) == []
    page.set_viewport_size({"width": 400, "height": 900})
    assert page.evaluate(WIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 400
