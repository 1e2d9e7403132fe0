"""Pages: HTML from templates in which everything is escaped that does not say that it is HTML already."""

from html import escape
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parent / "templates"


class Html(str):
    """Text that is HTML already and goes into a page as it is."""

    __slots__ = ()


def load(name: str) -> Template:
    """Return the template of that file name."""
    return Template((TEMPLATES / name).read_text(encoding="utf-8"))


def fill(template: Template, **texts: str | int) -> Html:
    """Return the template with its $names filled; KeyError if one is not given."""
    return Html(template.substitute({name: _safe(text) for name, text in texts.items()}))


def style_sheet() -> Html:
    """Return the one style sheet, which each page carries inside so that it needs no other file."""
    return Html((TEMPLATES / "gallery.css").read_text(encoding="utf-8"))


def _safe(text: str | int) -> str:
    return text if isinstance(text, Html) else escape(str(text), quote=True)
