from .alpha_heatmap import plot_alpha
from .figure import save_figure
from .genotype_plot import plot_genotype

__all__ = ['plot_alpha', 'plot_genotype', 'save_figure']
