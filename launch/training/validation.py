"""How good a network is on the validation split, as the configuration of its training says."""

from launch.training.config import Config
from launch.training.evaluation import Evaluation, evaluate
from launch.training.multilabel import MultiLabelEvaluation, evaluate_multilabel
from model import Network
from pipeline.loader import VideoLoader


def validate(net: Network, loader: VideoLoader, config: Config) -> Evaluation | MultiLabelEvaluation:
    """Return how good `net` is on the samples of `loader`, whose clips have one label each, or several."""
    model, precision = config.model, config.train.precision
    if model.multi_label:
        return evaluate_multilabel(net, loader, model.num_classes, precision)
    return evaluate(net, loader, model.num_classes, precision, model.levels)
