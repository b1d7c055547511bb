"""A terminal for tests: what a command writes to it, and what a person then sees, what has scrolled away included."""

import io
import re

_PIECE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


class Terminal(io.StringIO):
    """A stream that calls itself a terminal. `writes` are its pieces as they came."""

    encoding = "utf-8"

    def __init__(self, rows: int = 24):
        super().__init__()
        self.rows = rows
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)

    def lines(self) -> list[str]:
        """What is seen. Raises AssertionError where the cursor is sent to rows that have scrolled away."""
        lines, row, column = [""], 0, 0
        text = self.getvalue()
        assert "".join(found[0] for found in _PIECE.finditer(text)) == text, "an escape sequence of another kind"
        for found in _PIECE.finditer(text):
            match found[0], found[2]:
                case "\r", _:
                    column = 0
                case "\n", _:
                    row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                case _, "A":
                    row -= int(found[1] or 1)
                    assert row >= max(0, len(lines) - self.rows)
                case _, "K":
                    assert found[1] == "2"
                    lines[row] = ""
                case _, "m" | "h" | "l":
                    pass
                case printed, None:
                    before = lines[row][:column].ljust(column)
                    lines[row] = before + printed + lines[row][column + len(printed) :]
                    column += len(printed)
                case sequence, _:
                    raise AssertionError(repr(sequence))
        return [line.rstrip() for line in lines]
