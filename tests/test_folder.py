"""A full disk says how full it is, whoever writes."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from landscape_hooks.store import folder
from landscape_hooks.store.folder import DurableStore, Put, RunFolder, put_files


@pytest.fixture
def full(monkeypatch, tmp_path):
    """A disk that takes no byte more, and says that 42 are free."""

    def no_room(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder, "_write", no_room)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda where: shutil._ntuple_diskusage(100, 58, 42))
    return tmp_path


@pytest.mark.parametrize("kind", [RunFolder, DurableStore])
@pytest.mark.parametrize("fresh", [None, slice(8, 24)])
def test_a_full_disk_says_what_was_to_be_written_and_what_is_free(full, kind, fresh):
    (full / "chunk").write_bytes(bytes(24))
    words = r"No space left on device: (24|16) bytes were to be written, 42 are free"
    with pytest.raises(OSError, match=words) as said:
        put_files(kind(full), [Put("chunk", np.ones(24, np.uint8), fresh)])
    assert said.value.errno == errno.ENOSPC
    assert said.value.filename == str(full / "chunk")
    assert (full / "chunk").read_bytes() == bytes(24), "it is as it was"


def test_other_trouble_is_said_as_it_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists") as said:
        put_files(RunFolder(tmp_path), [Put("file/chunk", np.ones(4, np.uint8))])
    assert "free" not in str(said.value)


SMALL = """
import sys, zarr
from landscape_hooks.store.folder import RunFolder
root = zarr.create_group(RunFolder(sys.argv[1]))
root.create_array("a", shape=3_000_000, chunks=3_000_000, dtype="u1", compressors=None)[...] = 1
"""


@pytest.mark.skipif(shutil.which("unshare") is None or os.name != "posix", reason="needs unshare")
def test_what_zarr_itself_writes_says_it_too(tmp_path):
    python, where = sys.executable, str(tmp_path)
    script = f'mount -t tmpfs -o size=1m none "{where}" || exit 77; exec "{python}" -c "$0" "{where}"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, SMALL], capture_output=True, text=True)
    if done.returncode != 1:
        pytest.skip("needs the right to mount")
    assert "No space left on device: 3,000,000 bytes were to be written" in done.stderr
