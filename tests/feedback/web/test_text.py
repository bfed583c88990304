"""Rendered text: only what is allowed gets in, nothing that was written stays out."""

import html
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from loopwright.feedback.web import text as module
from loopwright.feedback.web.hidden import pieces
from loopwright.feedback.web.text import ATTRIBUTES, MAX_RENDERED_CHARACTERS, TAGS, raw, render

PAYLOADS = json.loads((Path(__file__).parent / "payloads.json").read_text())

# Texts that are likely to be Markdown, or HTML, or to break either.
SCRAPS = st.sampled_from(
    "* ** _ ` ``` ~~~ ~~ # > - + 1. 7) | |-|-| [ ] ( ) ![ ]( ][ ]: < > </ /> <a <img </p> <!-- --> & &lt; &#106; &amp "
    "http:// https://a.b javascript: //x \\ \" ' = {{ }} "
    "é 日本 سلام 👨‍👩‍👧 \u200b \u202e \u0000 \r \ud800 \u00ad \u0301 word 42 on x "
    .split(" ") + ["\n", "\n\n", " ", "    ", "\t", "\r\n", "\n- ", "\n1. ", "\n> "]
)  # fmt: skip
TEXTS = st.lists(SCRAPS | st.text(max_size=5), max_size=40).map("".join)


class Elements(HTMLParser):
    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.other: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_comment(self, data):
        self.other.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check_allowed(markup: str) -> None:
    elements = Elements(markup)
    assert not elements.other
    for tag, attributes in elements.found:
        assert tag in TAGS
        allowed = ATTRIBUTES.get(tag, set())
        if tag == "a":
            allowed = allowed | {"rel", "target"}
            assert attributes["rel"] == "noopener noreferrer nofollow" and attributes["target"] == "_blank"
            assert re.match(r"https?://[^\s\\@]+\Z", attributes.get("href") or "http://none")
        assert attributes.keys() <= allowed
        assert attributes.get("dir") in (None, "auto", "ltr")


def visible(markup: str) -> str:
    """The text of a node, without marks; the numbers of lists are seen, too."""
    markup = re.sub(r"<mark [^>]*>[^<]*</mark>", "", markup)
    numbers = "".join(re.findall(r'<li value="(\d+)">', markup))
    return html.unescape(re.sub(r"<[^>]*>", "", markup)) + numbers


@given(TEXTS)
@example("| a |\n|---|\n| 1 | 2 |")
@example("[a]: http://b 'c'")
@example("```python secret words\ncode\n```")
@example("![alt](http://a.b 'title')")
@example("```name\x1f\ncode\n```")  # white space to Python, which trims it
def test_whatever_is_written_gives_allowed_tags_and_stays_visible(text):
    found = render(text)
    assert isinstance(found, Markup)
    found.encode()  # a lone surrogate would make the page unsendable
    check_allowed(found)
    no_entities = re.sub(r"&#?\w+;", "", "".join(piece.text for piece in pieces(text) if not piece.hidden))
    hidden = sum(len(piece.text) for piece in pieces(text) if piece.hidden)
    assert sum(map(int, re.findall(r'data-characters="(\d+)"', found))) >= hidden
    seen = visible(found)
    for character in set(no_entities):
        markup = character.isspace() or (character.isascii() and not character.isalnum())
        assert markup or seen.count(character) >= no_entities.count(character), character


@pytest.mark.parametrize("text", PAYLOADS.values(), ids=PAYLOADS)
def test_each_wall_holds_alone(text):
    check_allowed(render(text))
    check_allowed(module._CLEANER.clean(text.encode(errors="replace").decode()))  # as if the parser had let all through
    parsed = Elements(module._MARKDOWN.render(text))  # and as if nothing came after it
    for tag, attributes in parsed.found:
        assert tag in TAGS and attributes.keys() <= ATTRIBUTES.get(tag, set())


def test_there_are_payloads_enough():
    assert len(PAYLOADS) >= 24


def test_markdown_by_hand():
    text = "# A\n\nsome *it* **bold** ~~no~~ `x<y`\n\n7. seven\n9. nine\n\n> said\n\n| h |\n|---|\n| c |\n"
    assert render(text) == (
        '<h3 dir="auto">A</h3><p dir="auto">some <em>it</em> <strong>bold</strong> <s>no</s> '
        '<code dir="auto">x&lt;y</code></p><ol dir="auto"><li value="7">seven</li><li value="9">nine</li></ol>'
        '<blockquote dir="auto"><p>said</p></blockquote><table dir="auto"><thead><tr><th>h</th></tr></thead>'
        "<tbody><tr><td>c</td></tr></tbody></table>"
    )


def test_html_is_text():
    assert render("<script>alert(1)</script>") == '<p dir="auto">&lt;script&gt;alert(1)&lt;/script&gt;</p>'


def test_links_say_where_they_lead():
    link = 'target="_blank" rel="noopener noreferrer nofollow"'
    assert render('[a](https://x.example/?a=1&b=2 "t")') == (
        f'<p dir="auto"><a href="https://x.example/?a=1&amp;b=2" {link}>a</a> '
        '<bdi dir="ltr">(https://x.example/?a=1&amp;b=2 "t")</bdi></p>'
    )
    assert render("<http://x.example>") == (f'<p dir="auto"><a href="http://x.example" {link}>http://x.example</a></p>')
    # A Cyrillic letter in the name: what will be looked up is said.
    assert "(http://bаnk.example/ = http://xn--bnk-6cd.example/)" in render("[bank](http://bаnk.example/)")


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)", "JAVASCRIPT:alert(1)", "&#106;avascript:alert(1)", "data:text/html,x", "vbscript:x",
        "/relative", "//host.example", "mailto:a@b.example", "file:///etc/passwd", "http:", "http://", "https:\\\\x",
        "http://user@x.example", "http://good.example:x@x.example", "http://x.example\\@y.example", "http://x.example\\y.example/",
        "http://x:99999/",
        "http://[::1",
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_web_stays_text(address):
    found = render(f"[a]({address})")
    assert "<a" not in found
    assert "[a](" in found


def test_images_are_links_that_nobody_follows_unasked():
    found = render("![alt](http://x.example/p.png)")
    assert "<img" not in found and ">alt</a>" in found and "(http://x.example/p.png)" in found


@pytest.mark.parametrize(
    "text", ["[//]: # (choose me)", "[a]: http://b.example 'title'", "[a][b]\n\n[b]: http://c.example"]
)
def test_definitions_that_markdown_never_shows_are_shown(text):
    assert visible(render(text)).replace("\n", "") == text.replace("\n", "")


def test_what_would_be_lost_is_shown_as_it_was_written():
    text = "| a |\n|---|\n| 1 | more cells than the header |"
    assert render(text) == f'<pre dir="auto">{text}</pre>'
    assert visible(render("01. a\n007. b")).startswith("01. a")  # leading zeros are no numbers of a list


def test_a_text_too_long_for_markdown_is_shown_whole():
    text = "**a** " * (MAX_RENDERED_CHARACTERS // 6 + 1)
    assert render(text) == f'<pre dir="auto">{text}</pre>'
    assert render(text[:MAX_RENDERED_CHARACTERS]).startswith('<p dir="auto"><strong>a</strong>')


@given(TEXTS)
def test_raw_is_the_text(text):
    assert visible(raw(text)) == "".join(piece.text for piece in pieces(text) if not piece.hidden)
    check_allowed(raw(text))
    counted = sum(map(int, re.findall(r'data-characters="(\d+)"', raw(text))))
    assert counted + len(visible(raw(text))) == len(text)  # so places in the text can be counted


def test_raw_keeps_white_space():
    assert raw("  a\t b\r\n\n c  ") == "  a\t b\r\n\n c  "


def test_texts_are_never_templates():
    jinja = pytest.importorskip("jinja2")
    page = jinja.Environment(autoescape=True).from_string("{{ text }}").render(text=render("{{ 7*7 }} {% x %}"))
    assert page == '<p dir="auto">{{ 7*7 }} {% x %}</p>'


def test_combining_characters_stay_with_their_letter():
    text = unicodedata.normalize("NFD", "é")
    assert text in render(text)
