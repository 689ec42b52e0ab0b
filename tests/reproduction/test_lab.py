"""Trainings in parallel processes: each once, results in order, failures named without stopping the others."""

import pytest

from reproduction import Lab
from reproduction.training import Training

PLAIN = Training('plain', 'vgg16_plain_tiny')
OTHER = Training('other', 'vgg16_plain_tiny', {'randomness.seed': 1})
BROKEN = Training('broken', 'vgg16_plain_tiny', {'model.backbone.genotype': 'no_such_block'})


def test_runs_each_once_and_gives_results_in_order(tiny_configs, tmp_path):
    said = []
    lab = Lab(tmp_path, tiny_configs, processes=2, log=said.append)
    results = lab.run([OTHER, PLAIN, OTHER])
    assert list(results) == [OTHER, PLAIN]
    assert results[PLAIN].folder == tmp_path / 'plain'
    assert sorted(line.split(':')[0] for line in said if 'accuracy' in line) in (
        ['[1/2] other', '[2/2] plain'],
        ['[1/2] plain', '[2/2] other'],
    )
    said.clear()
    assert lab.run([PLAIN]) == {PLAIN: results[PLAIN]}
    assert said == ['1 of 1 trainings are done already']


def test_a_failure_is_named_when_the_others_are_done(tiny_configs, tmp_path):
    with pytest.raises(RuntimeError, match="1 of 2 trainings failed, 'broken' with ValueError: genotype='no_such_bl"):
        Lab(tmp_path, tiny_configs, log=lambda line: None).run([BROKEN, PLAIN])
    assert (tmp_path / 'plain' / 'result.json').exists()
    assert not (tmp_path / 'broken' / 'result.json').exists()
