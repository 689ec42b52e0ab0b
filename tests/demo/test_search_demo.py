"""demo/search_demo.py: a short search, its table, and the overlap of two seeds."""

from scripts import ROOT, load_script


def test_the_demo_prints_its_table(tmp_path, monkeypatch, capsys):
    demo = load_script('demo/search_demo.py')
    short = tmp_path / 'short.py'
    short.write_text(
        f"_base_ = '{ROOT}/configs/odbb_digits.py'\n"
        'train_dataloader = dict(batch_size=16, dataset=dict(indices=32))\n'
        'train_cfg = dict(max_epochs=3)\n'
        "custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=24, warmup=1, frozen=1), dict(type='FuseHook')]\n"
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
    )
    monkeypatch.setattr(demo, 'CONFIG', short)
    demo.main(['--work-dir', str(tmp_path / 'demo')])
    table = capsys.readouterr().out
    rows = ('supernet accuracy', 'subnet accuracy', 'fused accuracy', 'largest output difference', 'plain accuracy')
    assert all(row in table for row in rows)
    assert '0 of 360' in table
    assert '24 of 60 in 9 blocks' in table
    assert (tmp_path / 'demo' / 'search' / 'genotype.png').exists()
    demo.main(['--work-dir', str(tmp_path / 'seeds'), '--seeds', '2'])
    assert 'searched, 2 seeds' in capsys.readouterr().out
