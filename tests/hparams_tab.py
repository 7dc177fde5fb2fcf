"""What TensorBoard's HPARAMS tab shows."""

from pathlib import Path

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.hparams.get_experiment import Handler as GetExperiment


def tab(folder: Path) -> tuple[api_pb2.Experiment, dict[str, api_pb2.SessionGroup]]:
    """From TensorBoard's own backend: the columns, and the rows by run."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    backend = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    context = RequestContext()
    experiment = GetExperiment(context, backend, "", api_pb2.GetExperimentRequest()).run()
    asked = [api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos]
    asked += [api_pb2.ColParams(hparam=info.name, include_in_result=True) for info in experiment.hparam_infos]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=api_pb2.Status.values(), col_params=asked, slice_size=100
    )
    groups = list_session_groups.Handler(context, backend, "", request).run().session_groups
    return experiment, {group.name: group for group in groups}
