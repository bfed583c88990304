"""Text of models and people as HTML. It is hostile: nothing in it may run, load, lead away unseen, or be kept unseen.

Three walls. The Markdown parser knows no HTML and no images, and writes every text through `hidden.marked`; nh3 then
takes out whatever is not on the list of allowed tags; the Content-Security-Policy of the pages is the third. And
labelers must judge what was written: a rendering that would leave out a letter of the text is not used.

Put either form in an element with dir="auto": a text's first letter then says from which side it is read, since marks
and addresses bring a direction of their own. The paragraphs of `render` each have their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.normalize_url import normalizeLink
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from loopwright.feedback.web.hidden import marked, pieces

MAX_RENDERED_CHARACTERS = 50_000  # of Markdown, whose worst cases take longer than the text grows

_BLOCKS = frozenset("blockquote h3 h4 h5 h6 ol p pre table ul".split())
TAGS = _BLOCKS | set("a bdi br code del em hr li mark s small strong tbody td th thead tr".split())
ATTRIBUTES = {
    "a": {"href"},
    "li": {"value"},
    "mark": {"data-characters", "dir", "title"},
    "bdi": {"dir"},
    "code": {"dir"},
} | {block: {"dir"} for block in _BLOCKS}


def render(text: str) -> Markup:
    """Markdown as HTML of TAGS and ATTRIBUTES; links also have rel and target.

    What Markdown would drop is shown as it was written (reference definitions, links to what is not http(s)), or in a
    line of its own (the name of a code block). Where a letter, a digit or a hidden character would be lost all the
    same, or the text is longer than MAX_RENDERED_CHARACTERS, the whole text is shown as by `raw`, in <pre>.
    """
    if len(text) <= MAX_RENDERED_CHARACTERS:
        html = _CLEANER.clean(_MARKDOWN.render(text.replace("\r\n", "\n")))
        if _shows_all_of(text, html):
            return Markup(html)
    return Markup('<pre dir="auto">{}</pre>').format(raw(text))


def raw(text: str) -> Markup:
    """The text as it is, for an element with `white-space: pre-wrap`; only hidden characters are replaced, by marks."""
    return marked(text)


def _shows_all_of(text: str, html: str) -> bool:
    """Whether every letter, digit, symbol beyond ASCII and hidden character of the text is in the rendering."""
    hidden = sum(len(piece.text) for piece in pieces(text) if piece.hidden)
    if sum(map(int, _MARKED_CHARACTERS.findall(html))) < hidden:
        return False
    seen = Markup(_NO_TAGS.clean(_MARK.sub("", html))).unescape() + "".join(_NUMBERS.findall(html))
    written = "".join(piece.text for piece in pieces(_ENTITY.sub("", text)) if not piece.hidden)
    return not Counter(_MAY_BE_MARKUP.sub("", written)) - Counter(seen)


_MAY_BE_MARKUP = re.compile(r"[\s!-/:-@\[-`{-~]+")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MARK = re.compile(r"<mark [^>]*>[^<]*</mark>")
_MARKED_CHARACTERS = re.compile(r'<mark data-characters="(\d+)"')
_NUMBERS = re.compile(r'<li value="(\d+)">')


class _Renderer(RendererHTML):
    """Every text goes through `marked`, every block says in which direction it is read."""

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return marked(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return Markup('<code dir="auto">{}</code>').format(marked(tokens[idx].content))

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return Markup('<pre dir="auto"><code>{}</code></pre>').format(marked(tokens[idx].content))

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        name = tokens[idx].info.strip()
        caption = Markup('<p dir="auto"><small>{}</small></p>').format(marked(name)) if name else ""
        return caption + self.code_block(tokens, idx, options, env)

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        env["link"] = tokens[idx]
        return Markup('<a href="{}">').format(_address(str(tokens[idx].attrs["href"])))

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """The address after the link; of a name that is not ASCII also the form in which it will be looked up."""
        link: Token = env.pop("link")
        url, title = str(link.attrs["href"]), str(link.attrs.get("title", ""))
        shown = [] if link.info == "auto" else [url]
        if not url.isascii():
            shown.append(f"= {_address(url)}")
        if title:
            shown.append(f'"{title}"')
        if not shown:
            return "</a>"
        return Markup('</a> <bdi dir="ltr">({})</bdi>').format(marked(" ".join(shown)))

    def list_item_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        number = tokens[idx].info  # as it was written: Markdown counts on from the first
        return Markup('<li value="{}">').format(int(number)) if number else "<li>"

    def renderToken(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:  # noqa: N802
        token = tokens[idx]
        if token.hidden:
            return ""
        if token.tag in _HEADINGS:  # h1 and h2 are the page's own
            return _tag(_HEADINGS[token.tag], token)
        return _tag(token.tag, token)


def _tag(name: str, token: Token) -> str:
    if token.nesting == -1:
        return f"</{escape(name)}>"
    direction = ' dir="auto"' if token.level == 0 and name in _BLOCKS else ""
    return f"<{escape(name)}{direction}>"


_HEADINGS = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6", "h6": "h6"}


class _Markdown(MarkdownIt):
    """Addresses stay as they were written until they are rendered; what is no address of the web makes no link."""

    def normalizeLink(self, url: str) -> str:  # noqa: N802
        return url

    def normalizeLinkText(self, link: str) -> str:  # noqa: N802
        return link

    def validateLink(self, url: str) -> bool:  # noqa: N802
        return _address(url) is not None


def _address(url: str) -> str | None:
    """The http(s) address that a browser goes to, in ASCII; None for what is none, or pretends to be another."""
    try:
        address = normalizeLink(url)
        parts = urlsplit(address)
        said = parts.hostname and parts.port != 0
    except ValueError:
        return None
    whole = _ADDRESS.fullmatch(address) and "\\" not in url
    return address if said and whole and "@" not in parts.netloc else None


_ADDRESS = re.compile(r"https?://[!-\[\]-~]+", re.IGNORECASE)  # no white space, no backslash


def _markdown() -> MarkdownIt:
    markdown = _Markdown("commonmark", {"html": False}, renderer_cls=_Renderer)
    markdown.enable(["table", "strikethrough"])
    # Without `normalize`, NUL stays what it is; without `reference`, nothing can be defined that is never shown.
    return markdown.disable(["normalize", "reference", "image", "html_block", "html_inline"])


_MARKDOWN = _markdown()
_CLEANER = nh3.Cleaner(
    tags=set(TAGS),
    attributes=ATTRIBUTES,
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
    url_schemes={"http", "https"},
    url_relative="deny",
)
_NO_TAGS = nh3.Cleaner(tags=set())
