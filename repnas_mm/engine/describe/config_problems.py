"""Problems of a config: settings that a search needs and it lacks, and settings that contradict the model."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config
from torch import nn

from ...checks import error_text
from ...models.survey import preset_branches
from ...search.block import Block
from ..form_configs import type_name
from ..hooks import RepNASHook
from .ways import typed_dicts


def config_problems(cfg: Config, model: nn.Module, blocks: int, searched: Mapping[str, Block]) -> Iterator[str]:
    """Say what is missing in the config and what is wrong with it, a paragraph each."""
    for title, lines in (
        ('The config lacks', _missing(cfg, blocks, searched)),
        ('The config does not fit', _contradictions(cfg, model, searched)),
    ):
        if indented := [f'  {line}' for line in lines]:
            yield '\n'.join([title, *indented])


def _missing(cfg: Config, blocks: int, searched: Mapping[str, Block]) -> Iterator[str]:
    imports = (cfg.get('custom_imports') or {}).get('imports', ())
    # classes, as in a pure-Python config, are imported by being there
    classes = (getattr(node['type'], '__module__', '') for node in typed_dicts([cfg.model, cfg.get('custom_hooks')]))
    names = *([imports] if isinstance(imports, str) else imports), *classes
    if not any(name.partition('.')[0] == 'repnas_mm' for name in names):
        yield "custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)"
    wanted = {'FuseHook': '', 'ExactResumeHook': '', 'CheckFiniteHook': ''}
    if searched or not blocks:
        number = preset_branches(searched.values())['repvgg'] or '...'
        wanted = {'RepNASHook': f', num_branches={number}', **wanted}
        if not cfg.get('find_unused_parameters'):
            yield 'find_unused_parameters = True  # for several GPUs'
    if lacking := {hook: arguments for hook, arguments in wanted.items() if hook_settings(cfg, hook) is None}:
        yield 'custom_hooks = ['
        if cfg.get('custom_hooks'):
            yield '    *_base_.custom_hooks,'
        for hook, arguments in lacking.items():
            yield f"    dict(type='{hook}'{arguments}),{'  # RepVGG has about 3 a block' if '...' in arguments else ''}"
        yield ']'


def _contradictions(cfg: Config, model: nn.Module, searched: Mapping[str, Block]) -> Iterator[str]:
    if (settings := hook_settings(cfg, 'RepNASHook')) is not None:
        try:
            RepNASHook(**settings).strategy.new_search(searched)
        except (TypeError, ValueError) as e:
            yield f'RepNASHook: {error_text(e)}.'
    widths = getattr(getattr(model, 'backbone', None), 'out_channels', None)
    for name in ('neck', 'head', 'bbox_head', 'decode_head'):
        reader = cfg.model.get(name)
        if isinstance(reader, dict) and isinstance(widths, list) and 'in_channels' in reader:
            given = reader['in_channels']
            if given != (widths if isinstance(given, list | tuple) else widths[-1]):
                yield f'{name}: in_channels={given}, and the backbone has out_channels={widths}.'
            break


def hook_settings(cfg: Config, name: str) -> dict | None:
    """Config of a hook of ours, without its type, whether that is a class or a name with a scope or without."""
    for hook in cfg.get('custom_hooks') or ():
        if type_name(hook) == name:
            return {key: value for key, value in hook.items() if key != 'type'}
    return None
