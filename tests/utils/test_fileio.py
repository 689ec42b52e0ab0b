"""A file is the old one or the new one, and what cannot be written is said in one sentence."""

import os
import re
import resource
import signal

import pytest
import torch

from repnas_mm.utils import atomic_write, check_writable, save_atomic

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')


def is_one_sentence(message: str) -> bool:
    return message.endswith('.') and '\n' not in message and not re.search(r'\. [A-Z]', message)


def test_a_new_file_appears_whole(tmp_path):
    path = tmp_path / 'new.bin'
    with atomic_write(path) as f:
        f.write(b'half')
        f.flush()
        assert not path.exists()
        f.write(b' and half')
    assert path.read_bytes() == b'half and half'
    assert os.listdir(tmp_path) == ['new.bin']


def test_a_path_may_be_a_string(tmp_path):
    with atomic_write(str(tmp_path / 'a')) as f:
        f.write(b'1')
    assert (tmp_path / 'a').read_bytes() == b'1'


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / 'old.bin'
    path.write_bytes(b'old')
    with pytest.raises(error), atomic_write(path) as f:
        f.write(b'new, but only ha')
        raise error
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['old.bin']


@pytest.mark.parametrize('function', ['fsync', 'chmod', 'replace'])
def test_a_failure_of_the_disk_keeps_the_old_file_and_names_the_path(tmp_path, monkeypatch, function):
    def fail(*_):
        raise OSError(28, 'No space left on device')

    path = tmp_path / 'old.bin'
    path.write_bytes(b'old')
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match='No space left on device') as e, atomic_write(path) as f:
        f.write(b'new')
    assert str(path) in str(e.value) and is_one_sentence(str(e.value))
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['old.bin']


@pytest.mark.parametrize('umask, mode', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / 'a'):
            pass
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == mode


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / 'nowhere' / 'a.json'
    with pytest.raises(OSError) as e, atomic_write(path):
        pass
    assert str(path) in str(e.value) and is_one_sentence(str(e.value))


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / 'a').mkdir()
    with pytest.raises(OSError) as e, atomic_write(tmp_path / 'a'):
        pass
    assert str(tmp_path / 'a') in str(e.value) and is_one_sentence(str(e.value))
    assert os.listdir(tmp_path) == ['a']


def test_save_atomic_writes_what_torch_load_reads(tmp_path):
    save_atomic(dict(state=torch.arange(3)), tmp_path / 'a.pth')
    assert torch.load(tmp_path / 'a.pth', weights_only=True)['state'].tolist() == [0, 1, 2]


def test_save_atomic_keeps_the_old_checkpoint_when_saving_fails(tmp_path):
    save_atomic(dict(state=1), tmp_path / 'a.pth')
    with pytest.raises(Exception, match='pickle'):
        save_atomic(dict(state=lambda: None), tmp_path / 'a.pth')
    assert torch.load(tmp_path / 'a.pth', weights_only=True) == dict(state=1)
    assert os.listdir(tmp_path) == ['a.pth']


def test_check_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
    check_writable(tmp_path / 'a' / 'b')
    assert os.listdir(tmp_path / 'a' / 'b') == []
    check_writable(tmp_path / 'a' / 'b')


@pytest.mark.parametrize('folder', ['file', 'file/below'])
def test_check_writable_names_the_folder_that_a_file_blocks(tmp_path, folder):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError) as e:
        check_writable(tmp_path / folder)
    assert f"'{tmp_path / folder}'" in str(e.value) and is_one_sentence(str(e.value))


@needs_permissions
def test_check_writable_names_the_folder_it_may_not_write(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            check_writable(tmp_path)
    finally:
        tmp_path.chmod(0o755)


@pytest.fixture
def full_disk():
    """No file can grow over 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, full_disk):
    path = tmp_path / 'a.pth'
    save_atomic(dict(state=1), path)
    with pytest.raises(OSError) as e:
        save_atomic(dict(state=torch.zeros(10**6)), path)
    assert str(path) in str(e.value) and is_one_sentence(str(e.value))
    assert torch.load(path, weights_only=True) == dict(state=1)
    assert os.listdir(tmp_path) == ['a.pth']
