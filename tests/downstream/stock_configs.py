"""Stock configs of other packages: searched and fused by config alone, and stock again; ``make test-downstream``."""

import pytest
from data import write_data
from stock_models import PACKAGES, TESTED
from trial import try_config

#: Of convolutions without a norm behind them: FPNC's
NEW_BIASES = {'mmocr::textdet/dbnet/dbnet_resnet18_fpnc_1200e_icdar2015.py': 4}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The data of all packages."""
    root = tmp_path_factory.mktemp('data') / 'root'
    write_data(root)
    return root


@pytest.mark.parametrize('name', TESTED)
def test_a_stock_config_is_searched_and_comes_back_as_the_stock_model(name, data, tmp_path):
    result = try_config(name, data, tmp_path)
    assert len(result.new_biases) == NEW_BIASES.get(name, 0)
    assert result.difference < 1e-4
    assert result.blocks > 0 and result.branches >= result.blocks
    assert result.inferencer


def test_every_package_is_tested_with_two_configs():
    assert len(TESTED) == 2 * len(PACKAGES)
