"""The message class behind `config.pbtxt`, built from a compact table instead of generated code.

The classes live in a descriptor pool of their own, so that they never collide with the generated ones of a Triton
client in the same process. The table holds every field of the public schema, so that a config which any Triton takes is
read whole and written back whole. Of a `oneof` we read what is set and leave it to Triton to insist on one.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto (names and numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

# One message or enum a line. A field is `name:type=number`; no type means string, `*` repeated, `{key,value}` a map.
_SCHEMA = """
enum DataType: TYPE_INVALID=0 TYPE_BOOL=1 TYPE_UINT8=2 TYPE_UINT16=3 TYPE_UINT32=4 TYPE_UINT64=5 TYPE_INT8=6 \
TYPE_INT16=7 TYPE_INT32=8 TYPE_INT64=9 TYPE_FP16=10 TYPE_FP32=11 TYPE_FP64=12 TYPE_STRING=13 TYPE_BF16=14
enum InstanceKind: KIND_AUTO=0 KIND_GPU=1 KIND_CPU=2 KIND_MODEL=3
enum Format: FORMAT_NONE=0 FORMAT_NHWC=1 FORMAT_NCHW=2
enum Priority: PRIORITY_DEFAULT=0 PRIORITY_MAX=1 PRIORITY_MIN=2
enum TimeoutAction: REJECT=0 DELAY=1
enum DeviceKind: KIND_NVDLA=0
enum ControlKind: CONTROL_SEQUENCE_START=0 CONTROL_SEQUENCE_READY=1 CONTROL_SEQUENCE_END=2 CONTROL_SEQUENCE_CORRID=3
enum BatchInputKind: BATCH_ELEMENT_COUNT=0 BATCH_ACCUMULATED_ELEMENT_COUNT=1 \
BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO=2 BATCH_MAX_ELEMENT_COUNT_AS_SHAPE=3 BATCH_ITEM_SHAPE=4 \
BATCH_ITEM_SHAPE_FLATTEN=5
enum BatchOutputKind: BATCH_SCATTER_WITH_INPUT_SHAPE=0
Reshape: shape*:int64=1
Input: name=1 data_type:DataType=2 format:Format=3 dims*:int64=4 reshape:Reshape=5 is_shape_tensor:bool=6 \
allow_ragged_batch:bool=7 optional:bool=8 is_non_linear_format_io:bool=9
Output: name=1 data_type:DataType=2 dims*:int64=3 reshape:Reshape=5 label_filename=4 is_shape_tensor:bool=6 \
is_non_linear_format_io:bool=7
BatchInput: kind:BatchInputKind=1 target_name*=2 data_type:DataType=3 source_input*=4
BatchOutput: target_name*=1 kind:BatchOutputKind=2 source_input*=3
SecondaryDevice: kind:DeviceKind=1 device_id:int64=2
Resource: name=1 global:bool=2 count:uint32=3
RateLimiter: resources*:Resource=1 priority:uint32=2
InstanceGroup: name=1 kind:InstanceKind=4 count:int32=2 rate_limiter:RateLimiter=6 gpus*:int32=3 \
secondary_devices*:SecondaryDevice=8 profile*=5 passive:bool=7 host_policy=9
Latest: num_versions:uint32=1
All:
Specific: versions*:int64=1
VersionPolicy: latest:Latest=1 all:All=2 specific:Specific=3
OptimizationGraph: level:int32=1
GraphShape: dim*:int64=1
GraphLowerBound: batch_size:int32=1 input:{string,GraphShape}=2
GraphSpec: batch_size:int32=1 input:{string,GraphShape}=2 graph_lower_bound:GraphLowerBound=3
Cuda: graphs:bool=1 busy_wait_events:bool=2 graph_spec*:GraphSpec=3 output_copy_stream:bool=4
Accelerator: name=1 parameters:{string,string}=2
Accelerators: gpu_execution_accelerator*:Accelerator=1 cpu_execution_accelerator*:Accelerator=2
PinnedMemory: enable:bool=1
Optimization: graph:OptimizationGraph=1 priority:Priority=2 cuda:Cuda=3 execution_accelerators:Accelerators=4 \
input_pinned_memory:PinnedMemory=5 output_pinned_memory:PinnedMemory=6 gather_kernel_buffer_threshold:uint32=7 \
eager_batching:bool=8
QueuePolicy: timeout_action:TimeoutAction=1 default_timeout_microseconds:uint64=2 allow_timeout_override:bool=3 \
max_queue_size:uint32=4
DynamicBatching: preferred_batch_size*:int32=1 max_queue_delay_microseconds:uint64=2 preserve_ordering:bool=3 \
priority_levels:uint64=4 default_priority_level:uint64=5 default_queue_policy:QueuePolicy=6 \
priority_queue_policy:{uint64,QueuePolicy}=7
Control: kind:ControlKind=1 int32_false_true*:int32=2 fp32_false_true*:float=3 bool_false_true*:bool=5 \
data_type:DataType=4
ControlInput: name=1 control*:Control=2
InitialState: data_type:DataType=1 dims*:int64=2 zero_data:bool=3 data_file=4 name=5
State: input_name=1 output_name=2 data_type:DataType=3 dims*:int64=4 initial_state*:InitialState=5 \
use_same_buffer_for_input_output:bool=6 use_growable_memory:bool=7
DirectStrategy: max_queue_delay_microseconds:uint64=1 minimum_slot_utilization:float=2
OldestStrategy: max_candidate_sequences:int32=1 preferred_batch_size*:int32=2 max_queue_delay_microseconds:uint64=3 \
preserve_ordering:bool=4
SequenceBatching: direct:DirectStrategy=3 oldest:OldestStrategy=4 max_sequence_idle_microseconds:uint64=1 \
control_input*:ControlInput=2 state*:State=5 iterative_sequence:bool=6
EnsembleStep: model_name=1 model_version:int64=2 input_map:{string,string}=3 output_map:{string,string}=4 \
model_namespace=5
Ensemble: step*:EnsembleStep=1 max_inflight_requests:uint32=2
Parameter: string_value=1
WarmupInput: data_type:DataType=1 dims*:int64=2 zero_data:bool=3 random_data:bool=4 input_data_file=5
Warmup: name=1 batch_size:uint32=2 inputs:{string,WarmupInput}=3 count:uint32=4
Operations: op_library_filename*=1
TransactionPolicy: decoupled:bool=1
Agent: name=1 parameters:{string,string}=2
Agents: agents*:Agent=1
ResponseCache: enable:bool=1
MetricIdentifier: family=1
HistogramOptions: buckets*:double=1
MetricControl: metric_identifier:MetricIdentifier=1 histogram_options:HistogramOptions=2
Metrics: metric_control*:MetricControl=1
ModelConfig: name=1 platform=2 backend=17 runtime=25 version_policy:VersionPolicy=3 max_batch_size:int32=4 \
input*:Input=5 output*:Output=6 batch_input*:BatchInput=20 batch_output*:BatchOutput=21 optimization:Optimization=12 \
dynamic_batching:DynamicBatching=11 sequence_batching:SequenceBatching=13 ensemble_scheduling:Ensemble=15 \
instance_group*:InstanceGroup=7 default_model_filename=8 cc_model_filenames:{string,string}=9 \
metric_tags:{string,string}=10 parameters:{string,Parameter}=14 model_warmup*:Warmup=16 \
model_operations:Operations=18 model_transaction_policy:TransactionPolicy=19 model_repository_agents:Agents=23 \
response_cache:ResponseCache=24 model_metrics:Metrics=26
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Mapping[str, Any] = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def _build_message_class() -> type[Message]:
    package = "cueline.triton"
    file = descriptor_pb2.FileDescriptorProto(name="cueline/triton.proto", package=package, syntax="proto3")
    lines = [line for line in _SCHEMA.splitlines() if line]
    enums = {line.split(":", 1)[0].removeprefix("enum ") for line in lines if line.startswith("enum ")}

    def add_field(message: Any, name: str, number: int, kind: str, *, repeated: bool = False) -> None:
        field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
        if kind.startswith("{"):
            key, value = kind.strip("{}").split(",")
            entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
            entry.options.map_entry = True
            add_field(entry, "key", 1, key)
            add_field(entry, "value", 2, value)
            kind, repeated = f"{message.name}.{entry.name}", True
        if repeated:
            field.label = _Field.LABEL_REPEATED
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = _Field.TYPE_ENUM if kind in enums else _Field.TYPE_MESSAGE
            field.type_name = f".{package}.{kind}"

    for line in lines:
        head, _, body = line.partition(":")
        if head.startswith("enum "):
            enum = file.enum_type.add(name=head.removeprefix("enum "))
            for item in body.split():
                member, number = item.split("=")
                enum.value.add(name=member, number=int(number))
            continue
        message = file.message_type.add(name=head)
        for item in body.split():
            declared, number = item.rsplit("=", 1)
            name, _, kind = declared.partition(":")
            add_field(message, name.removesuffix("*"), int(number), kind or "string", repeated=name.endswith("*"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.ModelConfig"))


ConfigMessage: Any = _build_message_class()
"""Protobuf message class of a whole `config.pbtxt`; its fields are those of the public schema."""


DATA_TYPE_NAMES: Mapping[int, str] = {
    value.number: value.name.removeprefix("TYPE_")
    for value in ConfigMessage.DESCRIPTOR.file.enum_types_by_name["DataType"].values
}
"""Number of a `DataType` to its short name, `FP32` for `TYPE_FP32`."""
