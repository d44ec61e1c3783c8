"""Owns how the pages of an API follow each other: from an answer to what is asked next.

Nothing here waits or asks.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib import parse

import msgspec

from stages import hosts, kit
from stages.ingest import nests

Values = dict[str, str | int]
Size = Annotated[int, msgspec.Meta(ge=1)]


class NotALink(kit.DataFault):
    """What should lead to the next page is of no use for that."""

    def __init__(self, place: str, found: Any) -> None:
        kind = type(found).__name__
        super().__init__(
            f"what is at {place!r} does not lead to a next page: it is of type {kind}",
            hint="a next link is a text, a cursor a text or a number; it ends with null",
            path="$.paging.path",
        )


class Ask(msgspec.Struct, frozen=True):
    """What to ask: a URL as it is, or the stage's own with the values of a page."""

    url: str | None = None
    values: Values = {}

    def key(self) -> bytes:
        """Tell it from others."""
        return msgspec.json.encode(self, order="sorted")


class Answer(msgspec.Struct, frozen=True):
    """What a page says: where it was, what it holds, how many records, the link in its header."""

    url: str
    body: Any
    count: int
    link: str | None = None


class Paging(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by"):
    """How pages follow each other."""

    def first(self) -> Ask:
        """Ask for the first page."""
        return Ask()

    def after(self, asked: Ask, answer: Answer) -> Ask | None:
        """Ask for the page after this one; None after the last."""
        raise NotImplementedError


class NextLink(Paging, frozen=True, tag="next_link"):
    """The body holds the next page's link; it is absent, null or empty on the last."""

    path: str = "next"
    """Where, as `links.next`."""

    def after(self, asked: Ask, answer: Answer) -> Ask | None:  # noqa: ARG002 - of the kind
        """Follow the link in the body."""
        found = nests.at(answer.body, self.path)
        if found in _ENDS:
            return None
        if not isinstance(found, str):
            raise NotALink(self.path, found)
        return _linked(answer.url, found)


class LinkHeader(Paging, frozen=True, tag="link_header"):
    """The header `Link` names the next page by `rel="next"`."""

    def after(self, asked: Ask, answer: Answer) -> Ask | None:  # noqa: ARG002 - of the kind
        """Follow the link in the header."""
        return _linked(answer.url, answer.link) if answer.link else None


class Page(Paging, frozen=True, tag="page"):
    """Pages have numbers; one without records comes after the last.

    A short page is no sign of the end: servers give fewer than they are asked for.
    """

    param: str = "page"
    start: int = 1
    size_param: str | None = None
    size: Size = 100

    def first(self) -> Ask:
        """Ask for the first number."""
        return self._numbered(self.start)

    def after(self, asked: Ask, answer: Answer) -> Ask | None:
        """Ask for the next number."""
        return self._numbered(int(asked.values[self.param]) + 1) if answer.count else None

    def _numbered(self, number: int) -> Ask:
        sized: Values = {self.size_param: self.size} if self.size_param else {}
        return Ask(values={self.param: number, **sized})


class Offset(Paging, frozen=True, tag="offset"):
    """Records are counted; a page without any comes after the last.

    The offset grows by what came and not by what was asked for, so that none is left out.
    """

    param: str = "offset"
    limit_param: str = "limit"
    size: Size = 100

    def first(self) -> Ask:
        """Ask from the first record."""
        return Ask(values={self.param: 0, self.limit_param: self.size})

    def after(self, asked: Ask, answer: Answer) -> Ask | None:
        """Ask from the first record that has not come."""
        if not answer.count:
            return None
        reached = int(asked.values[self.param]) + answer.count
        return Ask(values={self.param: reached, self.limit_param: self.size})


class Cursor(Paging, frozen=True, tag="cursor"):
    """The body holds a mark to be handed back; it is absent, null or empty on the last page."""

    path: str = "cursor"
    param: str = "cursor"

    def after(self, asked: Ask, answer: Answer) -> Ask | None:  # noqa: ARG002 - of the kind
        """Hand the mark back."""
        found = nests.at(answer.body, self.path)
        if found in _ENDS:
            return None
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise NotALink(self.path, found)
        return Ask(values={self.param: found})


Kind = NextLink | LinkHeader | Page | Offset | Cursor
_ENDS = (nests.MISSING, None, "")


def _linked(url: str, link: str) -> Ask:
    """Complete a link from the page it stands on. Raises BadUri."""
    hosts.split(link)
    return Ask(url=parse.urljoin(url, link))
