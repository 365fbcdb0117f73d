from __future__ import annotations

import threading

import torch

from pathotune_pipeline.engine.device import one_cpu_thread_here


def in_a_new_thread(*calls) -> list:
    said = []
    thread = threading.Thread(target=lambda: said.extend(call() for call in calls))
    thread.start()
    thread.join()
    return said


def test_one_thread_here_leaves_threads_born_later_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert in_a_new_thread(one_cpu_thread_here, torch.get_num_threads) == [None, 1]
        assert in_a_new_thread(torch.get_num_threads) == [3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
