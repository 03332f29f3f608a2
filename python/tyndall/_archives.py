"""Archives of `runtime_env`, unpacked once and kept for as long as there is room.

Each has a folder in the cache under the hash of its contents, and beside it a lock file with the time of its last use:

1. Who uses one holds its lock, shared, until the process ends, however that is.
2. Who has unpacked one removes others: those of long ago, and the least recently used while all are above the bound.
3. Only what can be locked alone is removed, so nothing that is in use.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

_MAX_AGE_S = 30 * 24 * 3600
_MAX_BYTES = 4 << 30
_UNPACKING = ".unpacking-"
_UNPACKING_MAX_S = 24 * 3600
"""Longer ago, whoever unpacked was killed."""

_held: dict[Path, int] = {}
"""The locks of this process, by the folder that each is for."""


def unpacked(archive: Path) -> Path:
    """The directory with what is in an archive; the same archive is unpacked once. It stays while this process lives.

    An only folder at its top is taken for what was packed, unless it is a package itself.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive {archive}\nmend its path under runtime_env")
    with archive.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tyndall" / "runtime_env"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / digest.hexdigest()[:32]
    _hold(target)
    if not target.is_dir():
        try:
            _unpack(archive, target)
        except BaseException:
            os.close(_held.pop(target))
            _removed(target)
            raise
        _make_room(cache)
    inside = list(target.iterdir())
    is_wrapped = len(inside) == 1 and inside[0].is_dir() and not (inside[0] / "__init__.py").exists()
    return inside[0] if is_wrapped else target


def _unpack(archive: Path, target: Path) -> None:
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=_UNPACKING))
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(fresh)
        # Another process may have been faster, with the same contents.
        fresh.rename(target)
    except zipfile.BadZipFile:
        raise ValueError(f"{archive} is no zip archive\nmend its path under runtime_env") from None
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _hold(target: Path) -> None:
    """Keeps others from removing it."""
    if target not in _held:
        lock = _locked(target, fcntl.LOCK_SH)
        assert lock is not None, "it waits for it"
        _held[target] = lock
    os.utime(_lock_of(target))


def _lock_of(target: Path) -> Path:
    return target.parent / f"{target.name}.lock"


def _locked(target: Path, kind: int) -> int | None:
    """An open lock file of that kind; None where it is not to be had at once and is not waited for."""
    path = _lock_of(target)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, kind)
            # Who removes a folder removes its lock file too: then there is another one by now.
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)


# --- Room -------------------------------------------------------------------------------------------------------------


def _make_room(cache: Path) -> None:
    now = time.time()
    for one in cache.glob(f"{_UNPACKING}*"):
        if now - _time(one) > _UNPACKING_MAX_S:
            shutil.rmtree(one, ignore_errors=True)
    kept = sorted(_folders(cache), key=lambda one: _time(_lock_of(one)))
    sizes = {one: _size(one) for one in kept}
    total = sum(sizes.values())
    for one in kept:
        is_old = now - _time(_lock_of(one)) > _MAX_AGE_S
        if (is_old or total > _MAX_BYTES) and _removed(one):
            total -= sizes[one]


def _folders(cache: Path) -> set[Path]:
    """Those that have a lock alone are being unpacked, or whoever did it was killed."""
    return {one.with_suffix("") for one in cache.iterdir() if not one.name.startswith(".")}


def _removed(target: Path) -> bool:
    """Whether nobody used it, so that it is gone."""
    if target in _held or (lock := _locked(target, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
        return False
    try:
        if target.is_dir():
            # In one step, so that nobody finds a part of it.
            away = Path(tempfile.mkdtemp(dir=target.parent, prefix=_UNPACKING))
            target.rename(away / target.name)
            shutil.rmtree(away, ignore_errors=True)
        _lock_of(target).unlink(missing_ok=True)
    except OSError:
        # Another process may have removed it, and what cannot be removed stays.
        return False
    finally:
        os.close(lock)
    return True


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Without a lock file it was unpacked long ago.
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except OSError:
                continue
    return total
