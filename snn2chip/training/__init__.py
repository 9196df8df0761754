"""Training: published methods and their baselines, one loop for all of them.

>>> from snn2chip import training
>>> data = training.load("digits")
>>> plan = training.plan_of("tet", data, training.Options(model="conv", epochs=10))
>>> trained = training.train(plan, data, training.Settings(seed=1))
>>> snn2chip.save(trained.network, "model.pt", calibration=data.training.numpy(256))

Losses (:mod:`~snn2chip.training.losses`) are plain functions and take records of any library's modules.
"""

from snn2chip.training.datasets import Samples, TrainingData, load, split
from snn2chip.training.loop import Batch, Objective, Plan, Score, Settings, Stage, Trained, evaluate, train
from snn2chip.training.methods import METHODS, Options, plan_of
from snn2chip.training.models import MODELS, builder
from snn2chip.training.records import LayerRecord, observe, outputs_of

__all__ = [
    "METHODS",
    "MODELS",
    "Batch",
    "LayerRecord",
    "Objective",
    "Options",
    "Plan",
    "Samples",
    "Score",
    "Settings",
    "Stage",
    "Trained",
    "TrainingData",
    "builder",
    "evaluate",
    "load",
    "observe",
    "outputs_of",
    "plan_of",
    "split",
    "train",
]
