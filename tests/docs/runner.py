"""Runs the Python fences of pages, each page in a process of its own; the SDKs are imported once, before the forks.

Reads `[{"page": ..., "fences": [{"place": ..., "text": ...}]}]` from stdin and writes what failed, page by page, to
stdout as JSON. The fences of a page share their names, as a reader of it would type them one after the other. Its
argument is how many seconds a page may take. Not a test; `test_snippets.py` starts it.
"""

import contextlib
import importlib.util
import io
import json
import os
import signal
import sys
import traceback
import warnings

SDKS = ("openai", "anthropic", "google.genai", "httpx")


def _run(fences: list[dict[str, str]]) -> str:
    """Run fences in order; return what went wrong, nothing when nothing did."""
    names: dict[str, object] = {"__name__": "__main__"}
    for fence in fences:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(fence["text"], fence["place"], "exec"), names)  # noqa: S102  (running them is the purpose)
        except BaseException:
            return f"{fence['place']}\n{traceback.format_exc(limit=-4)}"
        if "print(" in fence["text"] and not printed.getvalue().strip():
            return f"{fence['place']}: printed nothing"
    return ""


def _in_a_process(fences: list[dict[str, str]], limit_s: int) -> str:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(limit_s)  # a page that hangs is a failure of that page alone
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            pipe.write(_run(fences))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or (f"{fences[0]['place']}: ended with {status}" if status else "")


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    for sdk in SDKS:
        if importlib.util.find_spec(sdk.partition(".")[0]):
            importlib.import_module(sdk)
    asked, limit_s = json.load(sys.stdin), int(sys.argv[1])
    json.dump({page["page"]: said for page in asked if (said := _in_a_process(page["fences"], limit_s))}, sys.stdout)


if __name__ == "__main__":
    main()
