"""demo/search_demo.py: a short search, its table, and the comparison of two seeds."""

from scripts import ROOT, load_script

SHORT = """
train_dataloader = dict(batch_size=16, dataset=dict(indices=64))
model = dict(backbone=dict(arch=dict(num_blocks=[1, 1, 1])))
train_cfg = dict(max_epochs=3)
default_hooks = dict(checkpoint=dict(interval=1))
"""
SEARCH = (
    "custom_hooks = [dict(type='RepNASHook', strategy='shrink', num_branches=9, frozen=2), dict(type='FuseHook')]\n"
)


def test_the_demo_prints_its_tables(tmp_path, monkeypatch, capsys):
    demo = load_script('demo/search_demo.py')
    for name in demo.NETWORKS.values():
        text = f"_base_ = '{ROOT}/configs/{name}.py'\n{SHORT}"
        if name.startswith('odbb'):
            text += SEARCH
        if name.startswith('random'):
            text = text.replace('arch=', 'genotype=dict(num_branches=9), arch=')
        (tmp_path / f'{name}.py').write_text(text)
    monkeypatch.setattr(demo, 'CONFIGS', tmp_path)
    demo.main(['--work-dir', str(tmp_path / 'demo')])
    table = capsys.readouterr().out
    rows = ('supernet accuracy', 'subnet accuracy', 'fused accuracy', 'largest output difference', 'plain accuracy')
    assert all(row in table for row in rows)
    assert '0 of 360' in table
    assert '9 of 25 in 4 blocks' in table
    assert (tmp_path / 'demo' / 'search-seed0' / 'genotype.png').exists()
    demo.main(['--work-dir', str(tmp_path / 'demo'), '--seeds', '2'])
    printed = capsys.readouterr().out
    assert '3 of 6 trainings are done already' in printed
    assert 'over 2 seeds' in printed and 'searched, 2 seeds' in printed
