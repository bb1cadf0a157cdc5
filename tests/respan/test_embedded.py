"""The private PostgreSQL: made, started, adopted, recovered, shared, stopped by its last user; never loses data."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from respan import embedded
from respan.embedded import Cluster, EmbeddedError
from tests.servers import is_alive, wait_until

HOLDER = (
    "import sys; from pathlib import Path; from respan import embedded\n"
    "cluster = embedded.use(Path(sys.argv[1])); print(cluster.pid(), flush=True); sys.stdin.read(); cluster.release()"
)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    home = embedded.home_of(folder)
    pid_file = home / "postgres" / "postmaster.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text().split()[0])
        if is_alive(pid):
            os.kill(pid, signal.SIGQUIT)
            wait_until(lambda: not is_alive(pid), what="the server to leave")
    if home != folder:
        for path in home.parent.glob(f"{home.name}*"):
            shutil.rmtree(path)


def _fetch(cluster: Cluster, statement: str) -> object:
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


def _remember(cluster: Cluster) -> None:
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE memory AS SELECT 7 AS number")


def test_first_use_makes_a_safe_server(data_dir: Path) -> None:
    cluster = embedded.use(data_dir)
    try:
        assert _fetch(cluster, "SELECT current_database()") == "respan"
        for setting, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "password_encryption": "scram-sha-256",
            "server_encoding": "UTF8",
        }.items():
            assert _fetch(cluster, f"SHOW {setting}") == value
        assert stat.S_IMODE((data_dir / "database-url").stat().st_mode) == 0o600
        assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            psycopg.connect(cluster.url.replace("respan:", "respan:not"), connect_timeout=5)
        if os.geteuid() == 0:
            assert cluster.folder.is_relative_to("/var/lib/respan")
            owner = Path(f"/proc/{cluster.pid()}").stat().st_uid
            assert owner != 0
    finally:
        cluster.release()
    assert cluster.pid() is None


def test_data_survives_a_stop(data_dir: Path) -> None:
    first = embedded.use(data_dir)
    _remember(first)
    first.release()
    second = embedded.use(data_dir)
    assert second.url == first.url
    assert _fetch(second, "SELECT number FROM memory") == 7
    second.release()


def test_last_user_stops_the_server(data_dir: Path) -> None:
    cluster = embedded.use(data_dir)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, data_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert int(other.stdout.readline()) == cluster.pid()  # adopted, not started again
        cluster.release()
        assert cluster.pid() is not None
        other.stdin.close()
        assert other.wait(timeout=30) == 0
    assert cluster.pid() is None


def test_user_killed_without_a_word_leaves_a_server_to_adopt(data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, data_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        pid = int(other.stdout.readline())
        other.kill()
    assert is_alive(pid)
    cluster = embedded.use(data_dir)
    assert cluster.pid() == pid
    cluster.release()
    assert cluster.pid() is None


def test_killed_server_recovers_what_was_committed(data_dir: Path) -> None:
    cluster = embedded.use(data_dir)
    _remember(cluster)
    pid = cluster.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cluster.pid() is None)
    cluster.start()
    assert cluster.pid() != pid
    assert _fetch(cluster, "SELECT number FROM memory") == 7
    cluster.release()


def test_pid_file_of_somebody_elses_process_does_not_stop_a_start(data_dir: Path) -> None:
    cluster = embedded.use(data_dir)
    cluster.release()
    # After a power cut the number in the file may belong to anything: here a process of the same account.
    with subprocess.Popen(["sleep", "60"], user=cluster.account.uid, group=cluster.account.gid) as stranger:
        pid_file = cluster.folder / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{cluster.folder}\n1700000000\n5432\n\n127.0.0.1\n\nready\n")
        cluster.account.own(pid_file, 0o600)
        again = embedded.use(data_dir)
        assert again.pid() not in {None, stranger.pid}
        assert stranger.poll() is None
        again.release()
        stranger.kill()


def test_taken_port_is_replaced(data_dir: Path) -> None:
    import socket

    cluster = embedded.use(data_dir)
    cluster.release()
    old = cluster.url
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", int(old.rpartition(":")[2].partition("/")[0])))
        squatter.listen()
        again = embedded.use(data_dir)
        assert again.url != old
        assert _fetch(again, "SELECT 1") == 1
        again.release()


def test_data_of_another_version_is_refused_with_a_way_out(data_dir: Path) -> None:
    cluster = embedded.use(data_dir)
    cluster.release()
    (cluster.folder / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match=r"written by PostgreSQL 9.*\n.*pg_dump 9"):
        embedded.use(data_dir)
    assert (cluster.folder / "base").exists()


def test_interrupted_creation_begins_again(data_dir: Path) -> None:
    home = embedded.home_of(data_dir)
    (home / "postgres.partial" / "base").mkdir(parents=True)
    cluster = embedded.use(data_dir)
    assert _fetch(cluster, "SELECT 1") == 1
    cluster.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="as anybody but root the database lies in the data directory itself")
def test_deleted_data_directory_means_a_fresh_start_and_keeps_the_old_data(data_dir: Path) -> None:
    cluster = embedded.use(data_dir)
    _remember(cluster)
    cluster.release()
    shutil.rmtree(data_dir)
    fresh = embedded.use(data_dir)
    assert _fetch(fresh, "SELECT to_regclass('memory')") is None
    fresh.release()
    kept = [
        path for path in cluster.home.parent.glob(f"{cluster.home.name}.*") if (path / "postgres" / "base").exists()
    ]
    assert len(kept) == 1


def _may_run(uid: int, packages: str) -> bool:
    """Say whether another account can run this environment (it cannot when it lies in root's home)."""
    try:
        command = [sys.executable, "-c", "import psycopg"]
        done = subprocess.run(command, user=uid, cwd="/", env={"PYTHONPATH": packages}, capture_output=True)
    except PermissionError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_runs_as_an_ordinary_user_from_the_data_directory(tmp_path: Path) -> None:
    import pwd

    nobody = pwd.getpwnam("nobody")
    folder = Path("/var/tmp") / f"respan-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    if not _may_run(nobody.pw_uid, packages):
        folder.rmdir()
        pytest.skip("this Python is private to root")
    script = HOLDER.replace("sys.stdin.read()", "print(cluster.home, cluster.account.name, flush=True)")
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, folder / "data"],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": packages},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert f"{folder / 'data'} ourselves" in done.stdout
    finally:
        shutil.rmtree(folder)
