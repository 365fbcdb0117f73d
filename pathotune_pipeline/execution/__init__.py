"""Where work is done: in this process, or on Dask workers. It maps a function over items and knows nothing of them."""

from pathotune_pipeline.execution.executor import ExecutionSpec, Executor, Result, create_executor
from pathotune_pipeline.execution.serial import SerialExecutor

__all__ = ["ExecutionSpec", "Executor", "Result", "SerialExecutor", "create_executor"]
