"""Files that organizations keep in their providers' accounts: sent there, listed, deleted, and whose key owns which.

A file belongs to the account behind the key that uploaded it: that key, and no other, reads it again. So Respan keeps
no file, only the key of each file's id, for one organization: what another one uploaded does not exist for it. Own keys
only, credits pay for no file. Never logs a byte of a file. Neighbours: `files_api.py` (the endpoints), `call.py` (asks
`owner_of` which key a call with a file has to use, tells `remember` which one could), `dialects.file_ids`.

Source: https://platform.openai.com/docs/api-reference/files (2026-11).
"""

import re
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import psycopg
import structlog
from django.conf import settings

from accounts.keys import Caller
from gateway import credentials, multipart, outgoing, upstream
from gateway.answers import MAX_ERROR_BYTES, CallFailed, content_type, passed_on, without_keys
from gateway.credentials import Stored
from gateway.dialects import file_ids, openai_chat
from gateway.params import InvalidRequest
from gateway.providers import Provider, catalog
from gateway.routing import CUSTOM
from respan import pool
from respan.errors import Error

log = structlog.get_logger(__name__)

DIALECT = "openai_chat"
# Who speaks this too speaks the whole of OpenAI's API.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
# How many keys are asked for a file of which nobody remembers the owner.
MAX_ASKED = 4
_MAX_REMEMBERED = 10_000
_LISTED_BY = ("after", "limit", "order", "purpose")
_IN_A_PATH = re.compile(r"(?!\.+$)[A-Za-z0-9_.:-]{1,200}")
_ID = re.compile(r"[!-~]{1,200}")
# The field by which Respan's own client names the provider.
_PROVIDER_FIELD = "provider_id"


class NoFileAccount(Error):
    """There is no own key of a provider that keeps files."""

    status = 400
    code = "no_credential"
    message = (
        "Files are kept in a provider's account, and credits cannot pay for them: add a key of a provider with a files "
        "API under Integrations, or name one of your keys' providers in the header X-Respan-Provider."
    )


class FileNotFound(Error):
    """No file with this id is known to the organization."""

    status = 404
    code = "file_not_found"
    message = "There is no file with this id in the accounts behind your provider keys."


@dataclass(frozen=True, slots=True)
class Account:
    """A provider's account: the provider, and the key that opens it."""

    provider: Provider
    key: Stored


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's whole answer."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def keeps_files(provider: Provider) -> bool:
    """Tell whether a provider gives out ids of files; of a server of one's own nothing is known, so it may."""
    return file_ids.keeps((provider.dialect, *provider.also)) or provider.id == CUSTOM


def _takes_uploads(provider: Provider) -> bool:
    """Tell whether its files are OpenAI's."""
    return provider.files


# --- Requests to the provider ----------------------------------------------------------------------------------------


async def upload(caller: Caller, body: bytes, *, content_type: str, named: str | None) -> Reply:
    """Send a file on as it came, and remember whose it is. `named` is the provider that was asked for, if one.

    Raises: InvalidRequest; NoFileAccount; CallFailed; UpstreamError.
    """
    try:
        form = multipart.parse(body, content_type)
        files = [part for part in form.files() if part.name == "file"]
        purpose = form.text("purpose")
        named = form.text(_PROVIDER_FIELD) or named
    except multipart.InvalidForm as error:
        raise InvalidRequest(str(error), param=error.param) from error
    if len(files) != 1:
        raise InvalidRequest("Send one file in the field “file”.", param="file")
    if not purpose:
        raise InvalidRequest("purpose is missing: user_data, batch, fine-tune, …", param="purpose")
    account = (await _accounts(caller, named))[0]
    sent = form.changed({}, drop=(_PROVIDER_FIELD,))
    reply = await _whole(caller, account, "POST", "/files", body=sent, headers={"content-type": form.content_type})
    file = _decoded(reply.body)
    if isinstance(file.get("id"), str):
        name = file.get("filename") if isinstance(file.get("filename"), str) else files[0].filename
        await remember(
            caller.organization_id, file["id"], account.key, filename=name or "", size=files[0].size, purpose=purpose
        )
    log.info("file_uploaded", organization=caller.organization_id, bytes=files[0].size, provider=account.provider.id)
    return reply


async def listed(caller: Caller, query: Mapping[str, str], *, named: str | None) -> Reply:
    """Return the provider's own list: everything in the account behind the organization's key. Raises: as `upload`."""
    account = (await _accounts(caller, named))[0]
    asked = {name: query[name] for name in _LISTED_BY if query.get(name)}
    return await _whole(caller, account, "GET", f"/files?{urlencode(asked)}" if asked else "/files")


async def get(caller: Caller, file_id: str, *, named: str | None) -> Reply:
    """Return what the provider says of a file. Raises: as `upload`; FileNotFound."""
    return await _of(caller, "GET", file_id, named=named)


async def delete(caller: Caller, file_id: str, *, named: str | None) -> Reply:
    """Delete a file in the provider's account. Raises: as `upload`; FileNotFound."""
    reply = await _of(caller, "DELETE", file_id, named=named)
    await _forget(caller.organization_id, file_id)
    return reply


async def content(caller: Caller, file_id: str, *, named: str | None) -> httpx.Response:
    """Return the answer that holds a file, its body unread: close it. Raises: as `upload`; FileNotFound."""
    last: Error = FileNotFound(param="file_id")
    for account in await _holders(caller, file_id, named):
        response = await _send(caller, account, "GET", f"/files/{file_id}/content")
        if response.status_code < 400:
            await remember_found(caller.organization_id, file_id, account.key)
            return response
        last = await _refused(account, response)
        if last.status != 404:
            break
    raise last


async def _of(caller: Caller, method: str, file_id: str, *, named: str | None) -> Reply:
    """Ask for one file: the account that owns it, or, where nobody remembers, one after the other."""
    last: Error = FileNotFound(param="file_id")
    for account in await _holders(caller, file_id, named):
        try:
            reply = await _whole(caller, account, method, f"/files/{file_id}")
        except CallFailed as error:
            last = error
            if error.status != 404:
                break
        else:
            await remember_found(caller.organization_id, file_id, account.key)
            return reply
    raise last


async def _accounts(caller: Caller, named: str | None) -> list[Account]:
    """Return the accounts that files are sent to, best first; `named` chooses among all. Raises: NoFileAccount."""
    own = await credentials.usable(caller.organization_id)
    found = sorted(_matching(own, named), key=lambda account: account.provider.rank)  # vendors before those who resell
    if not found:
        raise NoFileAccount(param="provider" if named else None)
    return found


def _matching(own: Collection[Stored], named: str | None) -> Iterator[Account]:
    for key in own:
        provider = catalog().providers.get(key.provider)
        if provider is None:
            continue
        if named is None:
            if _takes_uploads(provider):
                yield Account(provider, key)
        elif provider.dialect == DIALECT and named in _names(provider, key):
            yield Account(provider, key)


def _names(provider: Provider, key: Stored) -> tuple[str, ...]:
    if provider.id == CUSTOM:
        return (key.name, key.public_id)
    return (provider.id, *provider.prefixes, key.public_id)


async def _holders(caller: Caller, file_id: str, named: str | None) -> list[Account]:
    """Return the accounts that may hold a file: its owner's alone, where that is remembered. Raises: FileNotFound."""
    if not _IN_A_PATH.fullmatch(file_id):
        raise FileNotFound(param="file_id")
    owner = (await owner_of(caller.organization_id, [file_id])).get(file_id)
    if owner is None:
        return (await _accounts(caller, named))[:MAX_ASKED]
    for key in await credentials.usable(caller.organization_id):
        if key.public_id == owner and key.provider in catalog().providers:
            return [Account(catalog().providers[key.provider], key)]
    raise FileNotFound("The provider key this file was uploaded with was removed. Add it again.", param="file_id")


async def _whole(
    caller: Caller,
    account: Account,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    response = await _send(caller, account, method, path, body=body, headers=headers)
    if response.status_code >= 400:
        raise await _refused(account, response)
    content = await upstream.read(response, MAX_ANSWER_BYTES)
    return Reply(response.status_code, content_type(response), content, passed_on(response, own_key=True))


async def _send(
    caller: Caller,
    account: Account,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    secret = account.key.secret().reveal()
    auth = account.provider.auth
    sealed = {"authorization": f"Bearer {secret}"} if auth == "bearer" else {auth: secret}
    request = httpx.Request(
        method,
        account.key.effective_base_url().rstrip("/") + path,
        headers={"user-agent": "respan/0.1", "accept": "*/*", **(headers or {}), **(sealed if secret else {})},
        stream=httpx.ByteStream(body),
        extensions={"timeout": outgoing.WHOLE_LIMITS, "body": body},
    )
    transport = outgoing.transport(account.provider, is_demo=caller.is_demo)
    return await upstream.send(
        request, transport=transport, deadline=time.monotonic() + settings.RESPAN_TOTAL_TIMEOUT_S
    )


async def _refused(account: Account, response: httpx.Response) -> CallFailed:
    """Turn a provider's refusal into ours: the caller's own account says no, less what looks like a key."""
    headers = passed_on(response, own_key=True)
    body = without_keys(await upstream.read(response, MAX_ERROR_BYTES), account.key.secret().reveal())
    message = openai_chat.error_message(body) or f"{account.provider.name} answered {response.status_code}."
    shown = body if openai_chat.is_error_body(body) else None
    return CallFailed(response.status_code, message, body=shown, headers=headers)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --- Whose file it is ------------------------------------------------------------------------------------------------

# (organization, file id) -> the owner's public id: it never changes, so it is never too old.
_owners: "OrderedDict[tuple[int, str], str]" = OrderedDict()

_OWNERS_SQL = """
SELECT file_id, credential FROM gateway_uploadedfile
WHERE organization_id = %s AND file_id = ANY(%s) AND deleted_at IS NULL
"""
_REMEMBER_SQL = """
INSERT INTO gateway_uploadedfile (organization_id, file_id, provider, credential, filename, bytes, purpose, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, now())
ON CONFLICT (organization_id, file_id)
DO UPDATE SET provider = excluded.provider, credential = excluded.credential, deleted_at = NULL
"""
_FORGET_SQL = "UPDATE gateway_uploadedfile SET deleted_at = now() WHERE organization_id = %s AND file_id = %s"


async def owner_of(organization_id: int, file_ids: Collection[str]) -> dict[str, str]:
    """Return, for those of the files that are known, the public id of the key that owns each.

    With the database down only what this process remembers: a call is rather tried than refused.
    """
    known = {file_id: owner for file_id in file_ids if (owner := _owners.get((organization_id, file_id)))}
    unknown = [file_id for file_id in dict.fromkeys(file_ids) if file_id not in known and _ID.fullmatch(file_id)]
    if not unknown:
        return known
    try:
        async with pool.connection() as connection:
            cursor = await connection.execute(_OWNERS_SQL, [organization_id, unknown])
            rows = await cursor.fetchall()
    except psycopg.Error as error:
        log.warning("file_owners_not_read", error=type(error).__name__)
        return known
    for file_id, owner in rows:
        known[file_id] = owner
        _keep(organization_id, file_id, owner)
    return known


async def remember(
    organization_id: int, file_id: str, key: Stored, *, filename: str = "", size: int = 0, purpose: str = ""
) -> None:
    """Remember which key owns a file. Never raises: the file is where it is, and the next to ask finds it again."""
    if not _ID.fullmatch(file_id):
        return
    _keep(organization_id, file_id, key.public_id)
    values = [organization_id, file_id, key.provider, key.public_id, _text(filename, 255), size, _text(purpose, 40)]
    try:
        async with pool.connection() as connection:
            await connection.execute(_REMEMBER_SQL, values)
    except psycopg.Error as error:
        log.warning("file_owner_not_kept", error=type(error).__name__)


async def remember_found(organization_id: int, file_id: str, key: Stored) -> None:
    """Remember that a key could read a file that was uploaded elsewhere; costs nothing where that is known."""
    if _owners.get((organization_id, file_id)) != key.public_id:
        await remember(organization_id, file_id, key)


async def _forget(organization_id: int, file_id: str) -> None:
    _owners.pop((organization_id, file_id), None)
    try:
        async with pool.connection() as connection:
            await connection.execute(_FORGET_SQL, [organization_id, file_id])
    except psycopg.Error as error:
        log.warning("file_not_forgotten", error=type(error).__name__)


def _keep(organization_id: int, file_id: str, owner: str) -> None:
    _owners[organization_id, file_id] = owner
    _owners.move_to_end((organization_id, file_id))
    if len(_owners) > _MAX_REMEMBERED:
        _owners.popitem(last=False)


def _text(text: str, length: int) -> str:
    """Return a text any table can hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:length]
