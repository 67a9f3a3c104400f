"""What the connection itself does with answers: pages, and one that is no list."""

from pilus_api.connection import Access, Connection, Object, Parameters


class Pages(Connection):
    """Gives out pages, and remembers what was asked."""

    def __init__(self, *pages: Object) -> None:
        super().__init__(Access("http://nowhere"))
        self.pages = list(pages)
        self.asked: list[Parameters] = []

    async def get(self, path: str, params: Parameters | None = None) -> Object:  # noqa: ARG002
        self.asked.append(dict(params or {}))
        return self.pages.pop(0)


async def test_every_page_is_asked_for() -> None:
    first = {"metadata": {"continue": "more"}, "items": [{"a": 1}, {"a": 2}]}
    connection = Pages(first, {"metadata": {}, "items": [{"a": 3}]})
    assert await connection.list_all("/x", page=2) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert connection.asked == [{"limit": "2"}, {"limit": "2", "continue": "more"}]


async def test_an_empty_collection() -> None:
    assert await Pages({"metadata": {}, "items": None}).list_all("/x") == []
    assert await Pages({}).list_all("/x") == []
