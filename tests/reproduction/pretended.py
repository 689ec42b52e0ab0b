"""A lab that trains nothing, with a look at what it was asked, and one that trains in this process."""

from functools import cache
from pathlib import Path

from mmengine.config import Config

from reproduction import Lab
from reproduction.training import Result, run_training

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
#: Settings that a config may lack although what it builds knows them
OPTIONAL = {'seed', 'enable', 'indices', 'test_mode', 'channels', 'genotype', 'init_cfg'}


@cache
def _config(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.setdefault('randomness', {})
    return cfg


def check_options(training):
    """Every option replaces a setting that the config has, or gives one that what it builds is known to take."""
    cfg = _config(training.config)
    for option in training.options:
        *parents, key = option.split('.')
        node = cfg
        for parent in parents:
            node = node[int(parent)] if parent.isdigit() else node[parent]
        assert key in node or key in OPTIONAL, option


class FakeLab(Lab):
    """Trains nothing; the accuracy of a training is what ``score`` says of its name."""

    def __init__(self, folder, score, epochs=(1, 2)):
        super().__init__(folder, CONFIGS)
        self.score, self.epochs, self.asked = score, epochs, []

    def run(self, trainings):
        trainings = list(trainings)
        self.asked += trainings
        return {t: self._result(t) for t in trainings}

    def _result(self, training):
        metrics = {'accuracy/top1': self.score(training.name)}
        folder = self.folder / training.name
        folder.mkdir(exist_ok=True)
        return Result(folder, metrics, {epoch: metrics for epoch in self.epochs})


class HereLab(Lab):
    """Trains in this process, which saves the start of others."""

    def run(self, trainings):
        return {t: self._start(run_training, t) for t in trainings}
