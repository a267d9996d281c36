"""A real terminal device of a given width, and the screen that it leaves."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading


class PseudoTerminal:
    """What is written to `stream` arrives in `text`, after `close`."""

    def __init__(self, columns, lines=24):
        self._reader, writer = pty.openpty()
        self.columns = columns
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        self._lines = lines
        self.resize(columns)
        self._parts = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def resize(self, columns):
        self.columns = max(columns, self.columns)  # so that what was written before stays as it was
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", self._lines, columns, 0, 0))

    def _read(self):
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(self._reader, 4096):
                self._parts.append(part)

    def close(self):
        self.stream.close()
        self._thread.join(timeout=10)
        os.close(self._reader)

    @property
    def text(self):
        return b"".join(self._parts).decode("utf-8")

    @property
    def screen(self):
        """The lines as they are seen at the end, without colours; a line that is too long goes on in the next."""
        return screen_of(self.text, self.columns)


def screen_of(text, columns):
    rows, row, column = [[]], 0, 0
    for sign in re.sub(r"\033\[[0-9;]*m", "", text):
        if sign == "\r":
            column = 0
            continue
        if sign == "\n" or column == columns:
            row, column = row + 1, 0
            if row == len(rows):
                rows.append([])
            if sign == "\n":
                continue
        rows[row] += [" "] * (column + 1 - len(rows[row]))
        rows[row][column] = sign
        column += 1
    return [line for line in ("".join(cells).rstrip() for cells in rows) if line]
