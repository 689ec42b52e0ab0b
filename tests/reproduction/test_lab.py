"""Trainings in parallel processes: each once, results in order, failures named without stopping the others."""

import pytest

from reproduction import Lab
from reproduction.training import Training

PLAIN = Training('plain', 'vgg16_plain_tiny')
OTHER = Training('other', 'vgg16_plain_tiny', {'randomness.seed': 1})
BROKEN = Training('broken', 'vgg16_plain_tiny', {'model.backbone.genotype': 'no_such_block'})


def test_each_runs_once_and_a_failure_is_named_when_the_others_are_done(tiny_configs, tmp_path):
    said = []
    lab = Lab(tmp_path, tiny_configs, processes=2, log=said.append)
    with pytest.raises(RuntimeError, match="1 of 3 trainings failed, 'broken' with ValueError: genotype='no_such_bl"):
        lab.run([BROKEN, OTHER, PLAIN, OTHER])
    assert not (tmp_path / 'broken' / 'result.json').exists()
    assert {line.split(':')[0].split('] ')[1] for line in said if 'accuracy' in line} == {'other', 'plain'}
    said.clear()
    results = lab.run([OTHER, PLAIN, OTHER])
    assert list(results) == [OTHER, PLAIN] and results[PLAIN].folder == tmp_path / 'plain'
    assert said == ['2 of 2 trainings are done already']
