"""One config from nothing to its evaluations, in a folder of its own. Knows nothing of Ray.

`<root>/trials/<trial_id>/` holds the record, the config, the checkpoints, the evaluations, the two newest training states, a
log and the TensorBoard events. Called again on the same folder, a trial goes on from its newest state.
"""

from ambient_sweep.trial.book import LOG, Report, ignore
from ambient_sweep.trial.evaluations import evaluate_model
from ambient_sweep.trial.examine import Examination, Findings, examine
from ambient_sweep.trial.run import REMOVE_STATE, Interrupted, run_trial
from ambient_sweep.trial.samples import class_counts, generate
from ambient_sweep.trial.setup import cached_data, device_of, evaluated_lengths, prepare, use_threads
from ambient_sweep.trial.stages import Stages, collect, data_key_of, fork_points, stage_keys

__all__ = [
    "LOG",
    "REMOVE_STATE",
    "Examination",
    "Findings",
    "Interrupted",
    "Report",
    "Stages",
    "cached_data",
    "class_counts",
    "collect",
    "data_key_of",
    "device_of",
    "evaluate_model",
    "evaluated_lengths",
    "examine",
    "fork_points",
    "generate",
    "ignore",
    "prepare",
    "run_trial",
    "stage_keys",
    "use_threads",
]
