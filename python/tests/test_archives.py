"""Unpacked archives: what is used stays, and the rest is bounded."""

import os
import subprocess
import sys
import time
import zipfile

import pytest

from tyndall import _archives

KIB = 1 << 10


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_archives, "_held", {})
    monkeypatch.setattr(_archives, "_MAX_BYTES", 5 * KIB)
    return tmp_path / "cache" / "tyndall" / "runtime_env"


def archive(folder, name: str, size: int = 2 * KIB):
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("name.txt", name)
        file.writestr("content", os.urandom(size))
    return path


def use(path) -> str:
    """Another process uses it and ends."""
    code = f"from pathlib import Path; from tyndall._archives import unpacked; print(unpacked(Path({str(path)!r})))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def aged(folder, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(f"{folder}.lock", (at, at))


def names(cache) -> set[str]:
    return {(one / "name.txt").read_text() for one in cache.iterdir() if one.is_dir()}


def test_the_least_recently_used_give_way_with_their_locks(cache, tmp_path):
    for age, name in ((30, "a"), (10, "b"), (20, "c")):
        aged(use(archive(tmp_path, name, KIB)), age)
    _archives.unpacked(archive(tmp_path, "d", 3 * KIB))
    assert names(cache) == {"b", "d"}
    assert {one.suffix for one in cache.iterdir() if one.is_file()} == {".lock"}
    assert len(list(cache.iterdir())) == 4


def test_what_is_used_stays(cache, tmp_path):
    path = archive(tmp_path, "used", 4 * KIB)
    code = (
        f"from pathlib import Path; from tyndall._archives import unpacked; print(unpacked(Path({str(path)!r})), "
        "flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        aged(user.stdout.readline().strip(), 1e9)
        _archives.unpacked(archive(tmp_path, "first", 4 * KIB))
        assert names(cache) == {"used", "first"}
        user.communicate("\n")
    _archives.unpacked(archive(tmp_path, "second", KIB))
    # The first is this process's own.
    assert names(cache) == {"first", "second"}


def test_what_was_not_used_for_long_goes(cache, tmp_path):
    aged(use(archive(tmp_path, "old", KIB)), 31 * 24 * 3600)
    aged(use(archive(tmp_path, "young", KIB)), 29 * 24 * 3600)
    _archives.unpacked(archive(tmp_path, "new", KIB))
    assert names(cache) == {"young", "new"}


def test_use_is_what_makes_one_young(cache, tmp_path):
    path = archive(tmp_path, "again", KIB)
    aged(use(path), 31 * 24 * 3600)
    assert use(path) == str(_archives.unpacked(path))
    _archives.unpacked(archive(tmp_path, "new", KIB))
    assert names(cache) == {"again", "new"}


def test_what_a_killed_process_left_goes(cache, tmp_path):
    left = cache / ".unpacking-x"
    left.mkdir(parents=True)
    (left / "part").touch()
    os.utime(left, (1, 1))
    _archives.unpacked(archive(tmp_path, "new", KIB))
    assert not left.exists()


def test_one_that_was_removed_is_unpacked_anew(cache, tmp_path):
    path = archive(tmp_path, "back", 4 * KIB)
    first = use(path)
    _archives.unpacked(archive(tmp_path, "other", 4 * KIB))
    assert names(cache) == {"other"}
    assert use(path) == first
