"""The config of one training run.

One dotted key per knob (`observed.sigma`), and one path for file, command line and sampler:
`defaults < base in the YAML < key=value < the trial's values`.
"""

from ambient_sweep.config.files import build_config as build_config
from ambient_sweep.config.files import check_keys as check_keys
from ambient_sweep.config.files import dump as dump
from ambient_sweep.config.files import flatten as flatten
from ambient_sweep.config.files import knobs as knobs
from ambient_sweep.config.files import load_config as load_config
from ambient_sweep.config.files import parse_overrides as parse_overrides
from ambient_sweep.config.files import read_yaml as read_yaml
from ambient_sweep.config.files import write_config as write_config
from ambient_sweep.config.sections import ComputeConfig as ComputeConfig
from ambient_sweep.config.sections import Config as Config
from ambient_sweep.config.sections import ConsistencyConfig as ConsistencyConfig
from ambient_sweep.config.sections import DataConfig as DataConfig
from ambient_sweep.config.sections import Distance as Distance
from ambient_sweep.config.sections import DistillationConfig as DistillationConfig
from ambient_sweep.config.sections import EmaConfig as EmaConfig
from ambient_sweep.config.sections import Endpoint as Endpoint
from ambient_sweep.config.sections import EvaluationConfig as EvaluationConfig
from ambient_sweep.config.sections import ModelConfig as ModelConfig
from ambient_sweep.config.sections import ObservedConfig as ObservedConfig
from ambient_sweep.config.sections import OptimizerConfig as OptimizerConfig
from ambient_sweep.config.sections import ResourcesConfig as ResourcesConfig
from ambient_sweep.config.sections import SamplingConfig as SamplingConfig
