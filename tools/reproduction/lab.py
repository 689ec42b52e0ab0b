"""Trainings of a reproduction in parallel processes; what was done before is not done again."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import copy
from functools import partial
from pathlib import Path

import torch

from repnas_mm.utils.fileio import check_writable

from .training import Result, Training, run_training


class Lab:
    """A place for trainings: one folder for each, a few processes to run them, and one line a result.

    Args:
        folder: Holds a folder for every training.
        configs: Holds the configs that trainings name.
        processes (int): Trainings that run at the same time. They share the CPU cores evenly, and take the GPUs in
            turns.
        data_root (str, optional): Where the data is, if not where the configs say.
        log (callable): Takes the lines that tell how far it is.
    """

    def __init__(
        self, folder: Path, configs: Path, processes: int = 1, data_root: str | None = None, log: Callable = print
    ):
        check_writable(folder)
        self.folder, self.configs, self.processes = folder, configs, processes
        self.data_root, self.log = data_root, log

    def with_data(self, data_root: str | None) -> 'Lab':
        """The same lab, for trainings whose data is elsewhere."""
        lab = copy(self)
        lab.data_root = data_root
        return lab

    def run(self, trainings: Iterable[Training]) -> dict[Training, Result]:
        """Results in the order given. What is done already, in this or an earlier call, is only read.

        Raises:
            RuntimeError: when all others are done, if a training failed; it names the log.
        """
        trainings = list(dict.fromkeys(trainings))
        results, waiting = {}, []
        for training in trainings:
            folder = self.folder / training.name
            if (folder / 'result.json').exists():
                results[training] = self._start(run_training, training)  # checks that it is the same
            else:
                waiting.append(training)
        if results:
            self.log(f'{len(results)} of {len(trainings)} trainings are done already')
        failed = self._run(waiting, results) if waiting else {}
        if failed:
            training, error = next(iter(failed.items()))
            raise RuntimeError(
                f"{len(failed)} of {len(trainings)} trainings failed, '{training.name}' with {type(error).__name__}: "
                f"{error} The log is '{self.folder / training.name / 'output.log'}'; start again to go on."
            ) from error
        return {training: results[training] for training in trainings}

    def _start(self, run: Callable, training: Training):
        return run(training, self.configs, self.folder / training.name, self.data_root)

    def _run(self, waiting: list[Training], results: dict) -> dict[Training, Exception]:
        """Fill ``results``; returns what failed."""
        processes = min(self.processes, len(waiting))
        context = multiprocessing.get_context('spawn')  # CUDA does not survive a fork
        devices = context.Queue()
        for i in range(processes):
            devices.put(i)
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        failed, start = {}, time.monotonic()
        with ProcessPoolExecutor(processes, context, _start_process, (devices, threads)) as pool:
            futures = {self._start(partial(pool.submit, run_training), t): t for t in waiting}
            for done, future in enumerate(as_completed(futures), 1):
                training = futures[future]
                try:
                    results[training] = future.result()
                    said = ', '.join(f'{name} {value:.4g}' for name, value in results[training].metrics.items())
                except Exception as error:  # the others go on
                    failed[training] = error
                    said = f'failed, {type(error).__name__}: {error}'
                left = (time.monotonic() - start) / done * (len(waiting) - done) / 60
                self.log(f'[{done}/{len(waiting)}] {training.name}: {said} (about {left:.0f} min left)')
        return failed


def _start_process(devices, threads: int) -> None:
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(devices.get() % torch.cuda.device_count())
