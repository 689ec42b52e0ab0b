from .alpha_heatmap import draw_alpha
from .figure import save_figure
from .genotype_plot import draw_genotype

__all__ = ['draw_alpha', 'draw_genotype', 'save_figure']
