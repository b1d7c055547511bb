"""A conversation and what it was before: a turn that is run again, edited or taken away stays as a version of its place."""

from collections.abc import Iterator, Sequence

from pydantic import model_validator

from ..types import Chat, Record, Value

MOST_ASIDE = 200  # versions that are not in sight; the oldest go first


class Node(Value):
    """A turn, and the one that it follows: its index in `Versions.nodes`, or -1 for the first turn of a conversation."""

    parent: int
    record: Record


class Aside(Node):
    """A node that is not in sight, with its own index."""

    index: int


class Versions(Value):
    """Every turn that was ever at the end of this conversation. The conversation in sight leads to the node `tip`."""

    nodes: tuple[Node, ...] = ()
    tip: int = -1

    @model_validator(mode="after")
    def _leads_back(self) -> "Versions":
        if any(not -1 <= node.parent < at for at, node in enumerate(self.nodes)) or not -1 <= self.tip < len(
            self.nodes
        ):
            raise ValueError("a turn follows one that is not there")
        return self

    @classmethod
    def of(cls, chat: Chat, aside: Sequence[Aside] = ()) -> "Versions":
        """`chat` in sight and the rest aside.

        Raises:
            ValueError: they do not fit together.
        """
        rest, tip = {node.index: node for node in aside}, -1
        if len(rest) < len(aside) or any(not 0 <= index < len(chat) + len(aside) for index in rest):
            raise ValueError("two turns have one place, or one has none")
        nodes: list[Node] = []
        for at in range(len(chat) + len(aside)):
            if at in rest:
                nodes.append(Node(parent=rest[at].parent, record=rest[at].record))
            else:
                nodes.append(Node(parent=tip, record=chat[at - sum(each < at for each in rest)]))
                tip = at
        return cls(nodes=tuple(nodes), tip=tip)

    @property
    def chat(self) -> Chat:
        return tuple(self.nodes[at].record for at in self._path())

    @property
    def aside(self) -> tuple[Aside, ...]:
        """What is not in sight, as `of` reads it."""
        shown = set(self._path())
        rest = ((at, node) for at, node in enumerate(self.nodes) if at not in shown)
        return tuple(Aside(index=at, parent=node.parent, record=node.record) for at, node in rest)

    def follow(self, chat: Chat) -> "Versions":
        """The same conversation as it goes on now. A turn that was there already is found again, whatever its mark."""
        nodes, tip = list(self.nodes), -1
        for record in chat:
            found = (at for at, node in enumerate(nodes) if node.parent == tip and same(node.record, record))
            parent, tip = tip, next(found, len(nodes))
            nodes[tip : tip + 1] = [Node(parent=parent, record=record)]
        grown = Versions(nodes=tuple(nodes), tip=tip)
        while len(grown.nodes) - len(chat) > MOST_ASIDE:
            grown = grown._without_the_oldest()
        return grown

    def count(self, turn: int) -> tuple[int, int]:
        """Which version of a turn is in sight, counted from 1, and how many there are."""
        path, others = self._path(), self._after(turn)
        return others.index(path[turn]) + 1, len(others)

    def places(self, turn: int) -> tuple[int, ...]:
        """Which version of each turn from `turn` on is in sight, and 0 for the end: what brings just these back by `show`."""
        return (*(self.count(each)[0] for each in range(turn, len(self._path()))), 0)

    def show(self, turn: int, *versions: int) -> "Versions":
        """With other versions of a turn and of those behind it, up to a 0 or on to what came last. What is not there changes nothing."""
        others = self._after(turn)
        if not versions or not 1 <= versions[0] <= len(others):
            return self
        tip, wanted = others[versions[0] - 1], iter(versions[1:])
        while after := [at for at, node in enumerate(self.nodes) if node.parent == tip]:
            if (version := next(wanted, len(after))) == 0:
                break
            tip = after[min(max(version, 1), len(after)) - 1]
        return self.model_copy(update={"tip": tip})

    def _after(self, turn: int) -> list[int]:
        """The versions of a turn in sight, or of the one that could come next."""
        path = self._path()
        if not 0 <= turn <= len(path):
            return []
        parent = path[turn - 1] if turn else -1
        return [at for at, node in enumerate(self.nodes) if node.parent == parent]

    def _path(self) -> list[int]:
        def back() -> Iterator[int]:
            at = self.tip
            while at >= 0:
                yield at
                at = self.nodes[at].parent

        return list(back())[::-1]

    def _without_the_oldest(self) -> "Versions":
        kept = {*self._path(), *(node.parent for node in self.nodes)}
        gone = next(at for at in range(len(self.nodes)) if at not in kept)
        nodes = (
            Node(parent=node.parent - (node.parent > gone), record=node.record)
            for at, node in enumerate(self.nodes)
            if at != gone
        )
        return Versions(nodes=tuple(nodes), tip=self.tip - (self.tip > gone))


def same(one: Record, other: Record) -> bool:
    """Whether two turns were asked and answered alike; how long that took, when it was and what was thought of it aside."""
    return one is other or _what(one) == _what(other)


def _what(record: Record) -> tuple[object, ...]:
    asked = record.model_copy(update={"base": None, "post": None, "mark": None, "blind": None, "today": ""})
    answered = (
        side and (side.weights_sha256, side.prompt_sha256, side.token_ids, side.finish_reason)
        for side in (record.base, record.post)
    )
    return (asked, *answered)
