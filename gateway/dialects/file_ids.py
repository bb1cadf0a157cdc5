"""Pure: files that a request names by an id of a provider's account: where it names them, and who can have them.

A file lives in the account behind the key that uploaded it: another provider, and another key, cannot read it. Such a
request is refused here, by the name of the member, instead of failing there in words about somebody else's account.
Never asks whether a file exists (the provider does), never knows a key. Neighbours: `gateway.files` (which key owns
which file), `gateway.call`.

Source: the file parts of OpenAI's, Anthropic's and Google's references (2026-11).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.dialects import blocks, wire

_decode = msgspec.json.Decoder().decode
# Where dialects have their messages.
_MESSAGES = ("messages", "input", "contents", "system")
_MARKS = (b'"file_id"', b'"fileUri"', b'"file_uri"')
# Citations name the files an answer was made from: nobody has to read them again.
_NOT_READ = ("citation", "file_path")
_OPENAI = frozenset({"openai_chat", "openai_responses"})
# What ids begin with -> the dialects of the accounts that gave them.
_OWNERS: Mapping[str, frozenset[str]] = {
    "file-": _OPENAI,
    "assistant-": _OPENAI,
    "file_": frozenset({"anthropic"}),
    "files/": frozenset({"gemini"}),
}
_GOOGLE_FILES = "/files/"
# Who speaks one of these gives out ids of files. Chat completions alone says nothing: most who speak it keep none.
_KEEPERS = frozenset({"openai_responses", "anthropic", "gemini"})


@dataclass(frozen=True, slots=True)
class Named:
    """A file as a request names it. `path` is the member, for example `messages[0].content[1].file.file_id`."""

    path: str
    file_id: str

    @property
    def owners(self) -> frozenset[str] | None:
        """Return the dialects of the accounts that give such ids; None where an id does not tell."""
        if self.file_id.startswith("https://"):
            return _OWNERS["files/"]
        return next((owners for prefix, owners in _OWNERS.items() if self.file_id.startswith(prefix)), None)


def keeps(spoken: Collection[str]) -> bool:
    """Tell whether a provider that speaks these dialects keeps files, as far as they tell."""
    return not _KEEPERS.isdisjoint(spoken)


def named_in(request: wire.Asked) -> list[Named]:
    """Return the files a request names by id, in order. Costs a search in the bytes where there are none."""
    if not any(mark in request.body for mark in _MARKS):
        return []
    found: list[Named] = []
    for member in _MESSAGES:
        raw = request.members.get(member)
        if raw is not None and any(mark in bytes(raw) for mark in _MARKS):
            found += _walk(_decode(raw), member)
    return found


def check(named: list[Named], *, dialect: str, keeps_files: bool, provider: str, on_credits: bool) -> None:
    """Check that a provider can have the files a request names.

    `dialect` is the one it is asked in, `keeps_files` whether it gives out ids at all, `provider` its name for people.
    Raises: blocks.Unsupported naming the member.
    """
    for file in named:
        if on_credits:
            raise blocks.Unsupported(
                file.path,
                f"{file.file_id[:100]} is a file of a provider's account, which a call paid by credits cannot read. "
                f"Add that account's key for {provider} under Integrations, or send the file itself (file_data).",
            )
        if file.owners is not None and not (keeps_files and dialect in file.owners):
            raise blocks.Unsupported(
                file.path,
                f"{file.file_id[:100]} is a file of another provider's account: {provider} cannot read it. "
                "Call a model of that provider, or send the file itself (file_data).",
            )


def find(request: wire.Asked, text: str) -> str | None:
    """Return the member that holds a text (a URL, say), to name it in an error; None when none does."""
    for member in _MESSAGES:
        raw = request.members.get(member)
        if raw is not None:
            for path, value in _strings(_decode(raw), member):
                if value == text:
                    return path
    return None


def _walk(value: Any, path: str) -> Iterator[Named]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        kind = value.get("type")
        is_read = not (isinstance(kind, str) and any(word in kind for word in _NOT_READ))
        for name, item in value.items():
            if isinstance(item, str):
                if is_read and _is_reference(name, item):
                    yield Named(f"{path}.{name}", item)
            else:
                yield from _walk(item, f"{path}.{name}")


def _is_reference(name: str, value: str) -> bool:
    if name == "file_id":
        return value != ""
    return name in ("fileUri", "file_uri") and (_GOOGLE_FILES in value or value.startswith("files/"))


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, f"{path}.{name}")
