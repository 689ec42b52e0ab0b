"""Python in a process of its own, forked from one that has imported the stack: that import takes eight seconds."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['mmcv.ops', 'mmdet.models', 'mmpretrain.models', 'repnas_mm'])


def run_python(*command, cwd: Path, env: Mapping[str, str] = {}, timeout: float = 300) -> tuple[int, str]:
    """Run ``python *command``: a script, ``-c`` and code, or ``-m`` and a module, with arguments.

    Returns:
        Exit status, and what it printed to both streams.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / 'output'
        arguments = [*map(str, command)], str(cwd), {**os.environ, **env}, str(output)
        process = _CONTEXT.Process(target=_run, args=arguments)
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, output.read_text(errors='replace') if output.exists() else ''


def _run(command: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    with open(output, 'wb') as f:
        for stream in (1, 2):
            os.dup2(f.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, 'w', buffering=1, closefd=False) for stream in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)  # the process forked from has those of its own start
    sys.path[:0] = [os.path.abspath(path) for path in env.get('PYTHONPATH', '').split(os.pathsep) if path]
    status = 0
    try:
        _execute(*command)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without the tear-down of the process that this one was forked from


def _execute(what: str, *arguments: str) -> None:
    if what == '-c':
        sys.argv = ['-c', *arguments[1:]]
        sys.path.insert(0, '')
        exec(compile(arguments[0], '<string>', 'exec'), {'__name__': '__main__'})
    elif what == '-m':
        sys.argv = [*arguments]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[0], run_name='__main__', alter_sys=True)
    else:
        sys.argv = [what, *arguments]
        sys.path.insert(0, os.path.dirname(os.path.abspath(what)))
        runpy.run_path(what, run_name='__main__')
