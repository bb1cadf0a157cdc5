"""A raw relay: uvicorn and aiohttp, no keys, no traces, no money. What the gateway's cost is measured against.

Run: UPSTREAM=http://127.0.0.1:9000/v1/chat/completions uvicorn tests.benchmarks.relay:app
"""

import os

import aiohttp

UPSTREAM = os.environ.get("UPSTREAM", "")
_session: aiohttp.ClientSession | None = None


async def app(scope, receive, send):
    global _session
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                if _session is not None:
                    await _session.close()
                return
    if _session is None:
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {"content-type": "application/json"}
    async with _session.post(UPSTREAM, data=body, headers=headers) as answer:
        content_type = answer.headers["content-type"].encode()
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", content_type)]}
        )
        async for block in answer.content.iter_any():
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
