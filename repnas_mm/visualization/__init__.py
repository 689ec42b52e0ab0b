from .alpha_heatmap import draw_alpha
from .detections import draw_boxes
from .figure import save_figure
from .genotype_plot import draw_genotype
from .growth_plot import draw_growth
from .latency_plot import draw_latency
from .tradeoff import draw_tradeoff

__all__ = ['draw_alpha', 'draw_boxes', 'draw_genotype', 'draw_growth', 'draw_latency', 'draw_tradeoff', 'save_figure']
