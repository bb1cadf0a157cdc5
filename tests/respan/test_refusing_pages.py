"""Pages that say no, of a running web process: what they leave behind."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from tests.servers import Server, wait_until
from tests.stack import call

NAME = "refusing-pages"


@pytest.mark.django_db(transaction=True)
def test_a_page_that_says_no_keeps_no_connection_to_the_database(
    cast: SimpleNamespace, running: Callable[..., Server]
) -> None:
    """Django renders them in a thread of their own: a connection left there is dead after the database was away."""
    reader = Client()
    reader.force_login(cast.member)
    cookie = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={reader.cookies[settings.SESSION_COOKIE_NAME].value}"}
    web = running(env={"PGAPPNAME": NAME})

    for path, status in (
        ("/platform/nothing/", 404),
        ("/platform/audit-log/", 403),
    ):
        answer = call(web.base_url + path, headers=cookie)
        assert (answer.status, b"Acme" in answer.body) == (status, True)
    wait_until(lambda: _connections() == 0, timeout_s=10, what="the connections to be closed")


def _connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [NAME])
        return int(cursor.fetchone()[0])
