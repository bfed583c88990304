"""A person at a page, who works it with the mouse or with the keyboard alone: one day is tested by both."""

from pathlib import Path
from typing import Any, Self

MOST_TABS = 150  # from one end of a page to the other


class Mouse:
    """Clicks what it is told to, by what screen readers call it."""

    def __init__(self, page: Any, part: str = "body") -> None:
        self.page = page
        self.part = page.locator(part)

    def within(self, part: str) -> Self:
        """The same hands at a part of the page."""
        return type(self)(self.page, part)

    def follow(self, link: str, *, exact: bool = True) -> None:
        """A link that leads to another page."""
        self._leave(self.part.get_by_role("link", name=link, exact=exact).first)

    def send(self, button: str, *, exact: bool = True) -> None:
        """A button that sends its form, whose answer is another page."""
        self._leave(self._button(button, exact))

    def press(self, button: str, *, exact: bool = True) -> None:
        """A button that stays on the page."""
        self._activate(self._button(button, exact))

    def open(self, summary: str) -> None:
        """What is folded, unless it is open."""
        folded = self.part.locator("summary", has_text=summary).first
        if not folded.evaluate("summary => summary.parentElement.open"):
            self._activate(folded)

    def write(self, field: str, text: str, *, exact: bool = True) -> None:
        self._field(field, exact).fill(text)

    def choose(self, field: str, option: str) -> None:
        self._list(field).select_option(label=option)

    def hand_in(self, field: str, file: Path) -> None:
        """A file, in the operating system's dialog."""
        with self.page.expect_file_chooser() as chooser:
            self._activate(self._field(field))
        chooser.value.set_files(file)

    def download(self, link: str) -> str:
        """What is in the file."""
        with self.page.expect_download() as download:
            self._activate(self.part.get_by_role("link", name=link, exact=True))
        return download.value.path().read_text(encoding="utf-8")

    def _button(self, name: str, exact: bool) -> Any:
        return self.part.get_by_role("button", name=name, exact=exact).first

    def _field(self, label: str, exact: bool = True) -> Any:
        return self.part.get_by_label(label, exact=exact).first

    def _list(self, label: str) -> Any:
        return self.part.get_by_role("combobox", name=label).first  # its label may have the options' words, too

    def _leave(self, element: Any) -> None:
        with self.page.expect_navigation():
            self._activate(element)

    def _activate(self, element: Any) -> None:
        element.click()


class Keyboard(Mouse):
    """Goes to everything by Tab, and sees by its outline that it is there."""

    def write(self, field: str, text: str, *, exact: bool = True) -> None:
        self._reach(self._field(field, exact))
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text) if text else self.page.keyboard.press("Delete")

    def choose(self, field: str, option: str) -> None:
        here = self._reach(self._list(field))
        self.page.keyboard.type(option)
        assert here.evaluate("list => list.selectedOptions[0].label") == option

    def _activate(self, element: Any) -> None:
        self._reach(element)
        self.page.keyboard.press("Enter")

    def _reach(self, element: Any) -> Any:
        here = element.element_handle()
        at = "element => document.activeElement === element"
        before = (
            "element => document.activeElement.compareDocumentPosition(element) === Node.DOCUMENT_POSITION_PRECEDING"
        )
        key = "Shift+Tab" if here.evaluate(before) else "Tab"
        for _ in range(MOST_TABS):
            if here.evaluate(at):
                outline = here.evaluate("element => getComputedStyle(element).outlineStyle")
                assert outline != "none", f"it is not seen that {element} has the focus"
                return here
            self.page.keyboard.press(key)
        raise AssertionError(f"Tab does not lead to {element}")


HANDS = {"mouse": Mouse, "keyboard": Keyboard}


def press(page: Any, *keys: str) -> None:
    """One key after the other, wherever the focus is."""
    for key in keys:
        page.keyboard.press(key)


def label(page: Any, name: str) -> Any:
    """The button of a choice, by what screen readers call it."""
    return page.get_by_role("button", name=name, exact=True)


def saved(page: Any) -> None:
    """Wait until the server has everything."""
    page.wait_for_function("() => !Object.keys(localStorage).some(key => key.startsWith('loopwright/'))")
