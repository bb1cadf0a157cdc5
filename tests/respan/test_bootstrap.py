"""Before Django: generated secrets, and the one `up` of a data directory."""

import stat
from pathlib import Path

import environ
import pytest

from respan import bootstrap

NAMES = ["SECRET_KEY", "RESPAN_KEY_PEPPER", "RESPAN_KEYS"]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> environ.FileAwareEnv:
    """The environment of a newcomer: no secret in it (restored afterwards)."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
    return environ.FileAwareEnv()


def _settings(env_file: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in env_file.read_text().splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def test_missing_secrets_are_made_once(tmp_path: Path, env: environ.FileAwareEnv) -> None:
    env_file = tmp_path / ".env"
    assert bootstrap.make_secrets(env_file, data_dir=tmp_path, env=env) == NAMES
    made = _settings(env_file)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert len(made["SECRET_KEY"]) >= 50
    assert len(made["RESPAN_KEY_PEPPER"]) >= 32
    assert bootstrap.make_secrets(env_file, data_dir=tmp_path, env=env) == []
    assert _settings(env_file) == made


def test_what_env_file_says_already_is_kept(tmp_path: Path, env: environ.FileAwareEnv) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# mine\nPORT=9000\nSECRET_KEY=\n")
    bootstrap.make_secrets(env_file, data_dir=tmp_path, env=env)
    assert env_file.read_text().startswith("# mine\nPORT=9000\n")
    assert _settings(env_file)["SECRET_KEY"]


def test_lost_secrets_are_not_replaced(tmp_path: Path, env: environ.FileAwareEnv) -> None:
    (tmp_path / "first-run.json").write_text("{}")
    with pytest.raises(bootstrap.Refused, match=r"Restore \.env from your backup"):
        bootstrap.make_secrets(tmp_path / ".env", data_dir=tmp_path, env=env)
    assert not (tmp_path / ".env").exists()


def test_unwritable_env_file_names_what_to_set(tmp_path: Path, env: environ.FileAwareEnv) -> None:
    env_file = tmp_path / "no-such-folder" / ".env"
    with pytest.raises(bootstrap.Refused, match="Set SECRET_KEY, RESPAN_KEY_PEPPER, RESPAN_KEYS"):
        bootstrap.make_secrets(env_file, data_dir=tmp_path, env=env)
