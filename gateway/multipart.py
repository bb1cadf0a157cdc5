"""Pure: `multipart/form-data` in memory: which parts a body has and where, and its bytes with a few of them changed.

Responsible for reading a form strictly (whatever two readers might understand differently is refused) and for changing
or removing single fields while every other byte stays as it came. Never decodes a file, never writes to disk; the limit
of the whole body is the server's. Neighbours: `dialects.openai_rest` (audio and images), `files.py` (uploads).

Source: RFC 7578 with the quoting of browsers (https://html.spec.whatwg.org/#multipart-form-data, 2026-11).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

MAX_PARTS = 256
MAX_HEAD_BYTES = 4_096
# A field of text: prompts are long, files are parts of their own.
MAX_TEXT_BYTES = 1024 * 1024

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (RFC 9110's word for a name)
_PARAMETER = re.compile(rf';[ \t]*(?P<name>{_TOKEN})=(?:"(?P<quoted>(?:[^"\\\r\n]|\\.)*)"|(?P<plain>[^\s";]+))[ \t]*')
_HEADER = re.compile(rf"(?P<name>{_TOKEN}):[ \t]*(?P<value>[^\r\n\0]*)")
_PADDING = re.compile(rb"[ \t]*\r\n")
_ESCAPED = re.compile(r'\\(["\\])')
_PERCENT = {"%22": '"', "%0D": "\r", "%0A": "\n"}


class InvalidForm(ValueError):
    """A body that is no form, or one that two readers could read differently; `param` names the field, if one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `body[begin:end]` with its delimiter, head and line end; `body[start:stop]` is its content."""

    name: str
    filename: str | None
    content_type: str | None
    begin: int
    start: int
    stop: int
    end: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Form:
    """A form. `content_type` is its header as it came, `closing` is where its last delimiter begins."""

    body: bytes
    content_type: str
    boundary: bytes
    parts: tuple[Part, ...]
    closing: int

    def fields(self) -> Iterator[tuple[str, str]]:
        """Yield name and text of every part that is no file. Raises: InvalidForm where one is too long or no UTF-8."""
        for part in self.parts:
            if part.filename is None:
                yield part.name, self._text(part)

    def text(self, name: str) -> str | None:
        """Return a field that may be given once. Raises: InvalidForm."""
        found = [part for part in self.parts if part.name == name]
        if not found:
            return None
        if len(found) > 1:
            raise InvalidForm(f"{name[:100]} is given more than once.", name)
        if found[0].filename is not None:
            raise InvalidForm(f"{name[:100]} must be a field, not a file.", name)
        return self._text(found[0])

    def files(self) -> list[Part]:
        """Return the parts that are files."""
        return [part for part in self.parts if part.filename is not None]

    def changed(self, values: Mapping[str, str], *, drop: Collection[str] = ()) -> bytes:
        """Return the body with other texts in these fields (added where there are none) and without those of `drop`.

        Nothing to change: the bytes as they came. Raises: InvalidForm when a value cannot stand in a form.
        """
        kept = [part for part in self.parts if part.name not in drop]
        wanted = {name: _storable(name, value, self.boundary) for name, value in values.items()}
        present = {part.name for part in kept}
        missing = [name for name in wanted if name not in present]
        is_other = any(part.name in wanted and wanted[part.name] != self._bytes(part) for part in kept)
        if len(kept) == len(self.parts) and not missing and not is_other:
            return self.body
        pieces: list[bytes] = []
        for part in kept:
            if part.name in wanted:
                pieces += [self.body[part.begin : part.start], wanted[part.name], b"\r\n"]
            else:
                pieces.append(self.body[part.begin : part.end])
        for name in missing:
            head = f'Content-Disposition: form-data; name="{_quoted(name)}"'.encode()
            pieces += [b"--", self.boundary, b"\r\n", head, b"\r\n\r\n", wanted[name], b"\r\n"]
        return b"".join([*pieces, self.body[self.closing :]])

    def _bytes(self, part: Part) -> bytes:
        return self.body[part.start : part.stop]

    def _text(self, part: Part) -> str:
        if part.size > MAX_TEXT_BYTES:
            raise InvalidForm(f"{part.name[:100]} is longer than {MAX_TEXT_BYTES} bytes.", part.name)
        try:
            return self._bytes(part).decode()
        except UnicodeDecodeError:
            raise InvalidForm(f"{part.name[:100]} is not valid UTF-8.", part.name) from None


def parse(body: bytes, content_type: str) -> Form:
    """Read a form; `content_type` is the request's header. Raises: InvalidForm."""
    boundary = _boundary(content_type)
    delimiter = b"--" + boundary
    begin = 2 if body.startswith(b"\r\n--") else 0  # a preamble that is empty
    if not body.startswith(delimiter, begin):
        raise InvalidForm("The body does not begin with the boundary that its Content-Type names.")
    parts: list[Part] = []
    while True:
        after = begin + len(delimiter)
        if body.startswith(b"--", after):
            _check_epilogue(body, after + 2)
            return Form(body, content_type, boundary, tuple(parts), begin)
        if len(parts) == MAX_PARTS:
            raise InvalidForm(f"The form has more than {MAX_PARTS} parts.")
        padding = _PADDING.match(body, after)
        if padding is None:
            raise InvalidForm("The form's boundary also stands inside one of its parts.")
        parts.append(_part(body, begin, padding.end(), delimiter))
        begin = parts[-1].end


def _part(body: bytes, begin: int, head: int, delimiter: bytes) -> Part:
    blank = body.find(b"\r\n\r\n", head - 2, head + MAX_HEAD_BYTES)
    if blank < 0:
        raise InvalidForm("A part of the form has no end of its head, or too long a head.")
    start = blank + 4
    # A delimiter may follow the head at once: its line end is that of the blank line.
    stop = body.find(b"\r\n" + delimiter, start - 2)
    if stop < 0:
        raise InvalidForm("The form is cut off: its closing boundary is missing.")
    if stop < start:
        raise InvalidForm("A part of the form has no content and no line end.")
    name, filename, content_type = _head(body[head:blank])
    return Part(name, filename, content_type, begin, start, stop, stop + 2)


def _check_epilogue(body: bytes, after: int) -> None:
    if body[after : after + 64].strip(b" \t\r\n") or len(body) > after + 64:
        raise InvalidForm("Something follows the form's closing boundary.")


def _boundary(content_type: str) -> bytes:
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "multipart/form-data" or not (content_type.isascii() and content_type.isprintable()):
        raise InvalidForm("Send this as multipart/form-data.")
    found = _parameters(";" + parameters)
    boundary = found.get("boundary") if found is not None else None
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise InvalidForm("The Content-Type names no valid boundary.")
    return boundary.encode()


def _head(raw: bytes) -> tuple[str, str | None, str | None]:
    """Return name, file name and content type of a part's head."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidForm("The head of a part of the form is not valid UTF-8.") from None
    headers: dict[str, str] = {}
    for line in text.split("\r\n") if text else ():
        match = _HEADER.fullmatch(line)
        if match is None or match["name"].lower() in headers:
            raise InvalidForm("The head of a part of the form cannot be read.")
        headers[match["name"].lower()] = match["value"].strip()
    if headers.get("content-transfer-encoding", "binary").lower() not in ("7bit", "8bit", "binary"):
        raise InvalidForm("A part of the form is encoded (Content-Transfer-Encoding): send its bytes as they are.")
    name, filename = _disposition(headers.get("content-disposition", ""))
    return name, filename, headers.get("content-type")


def _disposition(value: str) -> tuple[str, str | None]:
    kind, _, _ = value.partition(";")
    parameters = _parameters(value[len(kind) :])
    if kind.strip().lower() != "form-data" or parameters is None or not parameters.get("name"):
        raise InvalidForm("A part of the form has no name.")
    filename = parameters.get("filename")
    if filename is None and "filename*" in parameters:
        filename = parameters["filename*"].rpartition("'")[2]  # as it is written: only ever shown
    return parameters["name"], filename


def _parameters(text: str) -> dict[str, str] | None:
    """Return the parameters of a header, None where they cannot be read or one is given twice."""
    found: dict[str, str] = {}
    position = 0
    text = text.strip()
    if text == ";":
        return found
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None or match["name"].lower() in found:
            return None
        found[match["name"].lower()] = _unquoted(match["quoted"]) if match["plain"] is None else match["plain"]
        position = match.end()
    return found


def _unquoted(text: str) -> str:
    text = _ESCAPED.sub(r"\1", text)
    for escape, character in _PERCENT.items():
        text = text.replace(escape, character)
    return text


def _quoted(name: str) -> str:
    for escape, character in _PERCENT.items():
        name = name.replace(character, escape)
    return name


def _storable(name: str, value: str, boundary: bytes) -> bytes:
    encoded = value.encode()
    if b"\r\n--" + boundary in b"\r\n" + encoded:
        raise InvalidForm(f"{name[:100]} contains the form's boundary.", name)
    return encoded
