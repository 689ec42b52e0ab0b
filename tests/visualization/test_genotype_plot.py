"""The picture of a genotype says exactly what the genotype says."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from repnas_mm.models import ODBBBackbone
from repnas_mm.search import BRANCHES, Genotype
from repnas_mm.visualization import plot_genotype, save_figure
from repnas_mm.visualization.genotype_plot import stage_of

GENOTYPE = Genotype(
    {
        'backbone.stem': ('kxk', '1x1'),
        'backbone.stage_1.0': ('1x1_avg',),
        'backbone.stage_1.1': ('skip', '1xk', 'kx1'),
        'backbone.stage_2.0': ('1x1_kxk',),
    }
)
EMPTY = '#f2f2f2'


def cells(figure) -> dict[tuple[int, int], str]:
    """(block, branch) -> color of the cell at their crossing."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    at = {}
    for patch in patches:
        x, y = patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
        at[round(x), round(y)] = to_hex(patch.get_facecolor())
    assert len(at) == len(patches), 'two cells in one place'
    return at


def test_a_cell_is_filled_where_the_branch_is_kept():
    filled = {at for at, color in cells(plot_genotype(GENOTYPE)).items() if color != EMPTY}
    expected = {(x, list(BRANCHES).index(b)) for x, block in enumerate(GENOTYPE) for b in GENOTYPE[block]}
    assert filled == expected
    assert len(filled) == GENOTYPE.num_branches


def test_a_dropped_branch_has_an_empty_cell():
    assert len(cells(plot_genotype(GENOTYPE))) == len(GENOTYPE) * len(BRANCHES)


def test_a_branch_has_one_color_everywhere_and_no_other_branch_has_it():
    full = Genotype.from_preset('full', {'a': tuple(BRANCHES), 'b': tuple(BRANCHES)})
    at = cells(plot_genotype(full))
    rows = [{at[x, y] for x in range(2)} for y in range(len(BRANCHES))]
    assert all(len(row) == 1 for row in rows)
    assert len(set.union(*rows)) == len(BRANCHES)


def test_rows_are_labelled_with_branches_and_columns_with_stages():
    axes = plot_genotype(GENOTYPE).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(BRANCHES)
    assert {text.get_text(): text.get_position()[0] for text in axes.texts} == {'stem': 0, '1': 1.5, '2': 3}


def test_the_axis_tells_the_number_of_branches_and_the_title_is_the_users():
    figure = plot_genotype(GENOTYPE, title='ODBB-A0, epoch 3')
    assert '7 branches in 4 blocks' in figure.axes[0].get_xlabel()
    assert figure.get_suptitle() == 'ODBB-A0, epoch 3'
    assert plot_genotype(GENOTYPE).get_suptitle() == ''


@pytest.mark.parametrize(
    'block, stage',
    [
        ('backbone.stem', 'stem'),
        ('backbone.stage_1.0', '1'),
        ('stage_4.0', '4'),
        ('backbone.layer1.0.conv2', 'conv2'),
        ('0', '0'),
    ],
)
def test_the_stage_is_read_from_the_blocks_name(block, stage):
    assert stage_of(block) == stage


def test_save_figure_writes_png_and_svg(tmp_path):
    paths = save_figure(plot_genotype(GENOTYPE), tmp_path / 'genotype.png')
    assert paths == [tmp_path / 'genotype.png', tmp_path / 'genotype.svg']
    assert paths[0].read_bytes().startswith(b'\x89PNG\r\n')
    assert b'<svg' in paths[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['genotype.png', 'genotype.svg']


def test_a_dot_in_the_name_is_not_a_suffix(tmp_path):
    paths = save_figure(plot_genotype(GENOTYPE), tmp_path / 'odbb_lr0.05')
    assert [p.name for p in paths] == ['odbb_lr0.05.png', 'odbb_lr0.05.svg']


def test_the_same_genotype_is_the_same_file(tmp_path):
    first, second = (save_figure(plot_genotype(GENOTYPE), tmp_path / name) for name in ('a', 'b'))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match='nowhere'):
        save_figure(plot_genotype(GENOTYPE), tmp_path / 'nowhere' / 'genotype')


def test_a_whole_network_is_drawn():
    network = Genotype.from_preset('random', ODBBBackbone('A0'), num_branches=66, seed=0)
    filled = [color for color in cells(plot_genotype(network)).values() if color != EMPTY]
    assert len(filled) == 66
