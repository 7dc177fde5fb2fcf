from ambient_sweep.evaluation.encoders.classifier import (
    Classifier as Classifier,
)
from ambient_sweep.evaluation.encoders.classifier import (
    empty_classifier as empty_classifier,
)
from ambient_sweep.evaluation.encoders.classifier import (
    train_classifier as train_classifier,
)
