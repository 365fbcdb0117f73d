"""The engine: batches across slides, what one slide's trouble costs the others, memory, waiting, the device's limits."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy import CARD, ColourSlide, Mean, part_of, resident

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import DeviceLostError, EncoderMemoryError
from pathotune_pipeline.features import engines
from pathotune_pipeline.features.engine import Engine
from pathotune_pipeline.features.resident import HostLane, Resident
from pathotune_pipeline.features.ring import Ring

CPU = torch.device("cpu")


class Held(Mean):
    """An encoder that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        assert self.go.wait(30)
        return super().forward(batch)


def together(engine: Engine, works: list[tuple[ColourSlide, list]], threads: int = 2) -> None:
    """Several slides at once, each in a thread of its own."""
    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(lambda work: engine.encode(*work, threads=threads), works))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_batches_hold_tiles_of_several_slides_and_each_row_goes_to_its_own(tmp_path: Path) -> None:
    """Thirty slides of five tiles fill few batches when another slide is always there to go on with."""
    module = Held()
    shared = resident(module, batch=16)
    slides = [ColourSlide(across=5, down=1, blue=number) for number in range(30)]
    parts = [part_of(tmp_path, slide.grid(), [shared]) for slide in slides]
    with Engine(CPU) as engine, ThreadPoolExecutor(30) as pool:
        done = [
            pool.submit(engine.encode, slide, [part], threads=1)
            for slide, (part, _, _) in zip(slides, parts, strict=True)
        ]
        # What the ring holds besides the first batch, which goes off short where the first slide came long before.
        wait_until(lambda: sum(part.claimed for part, _, _ in parts) >= 3 * 16)
        module.go.set()
        for each in done:
            each.result()
    for slide, (part, (array,), (writer,)) in zip(slides, parts, strict=True):
        assert part.error is part.sinks[0].error is None
        np.testing.assert_array_equal(array[:], slide.expected(part.grid))
        writer.digest()
    assert set(module.batches) == {16}
    assert len(module.batches) < 20


@pytest.mark.parametrize("threads", [1, 3])
def test_features_are_the_same_bits_whatever_the_neighbours_and_threads(tmp_path: Path, threads: int) -> None:
    """A real network with attention and one with convolutions; a slide alone, and among others."""
    import timm

    class Textured(ColourSlide):
        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
            draw = np.random.default_rng((self.blue, *location))
            return draw.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)

    def features(slides: list[ColourSlide], encoder: Resident, folder: Path) -> np.ndarray:
        folder.mkdir()
        works = [(slide, part_of(folder, slide.grid(), [encoder])) for slide in slides]
        with Engine(CPU) as engine:
            together(engine, [(slide, [part]) for slide, (part, _, _) in works], threads)
        return works[0][1][1][0][:]

    for number, name in enumerate(("vit_tiny_patch16_224", "resnet10t")):
        torch.manual_seed(number)
        network = timm.create_model(name, num_classes=3)
        card = CARD.with_values(input_px=64 if name == "resnet10t" else 224, mean=(0.5,) * 3, std=(0.2,) * 3)
        encoder = Resident(Encoder(network, card, EncoderSpec(batch_size=4), CPU))
        slide = Textured(across=5, down=1, blue=1)
        others = [Textured(across=count, down=1, blue=9) for count in (3, 2)]
        alone = features([slide], encoder, tmp_path / f"{name}-alone")
        among = features([slide, *others], encoder, tmp_path / f"{name}-among")
        assert alone.any()
        np.testing.assert_array_equal(alone.view(np.uint16), among.view(np.uint16))


def test_trouble_of_one_slide_costs_the_others_nothing(tmp_path: Path) -> None:
    """One reader breaks, one slide's tiles overflow fp16; they share batches with two that are well."""

    class Breaks(ColourSlide):
        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
            if location[1] >= 2 * 32:
                raise RuntimeError("the reader has a bug")
            return super().read_region(location, level, size)

    class Overflow(Mean):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            rows = super().forward(batch)
            return torch.where(rows[:, 2:] == 200, rows * 1e6, rows)

    shared = resident(Overflow(), batch=16)
    slides = [ColourSlide(blue=1), Breaks(blue=2), ColourSlide(blue=200), ColourSlide(blue=3)]
    parts = [part_of(tmp_path, slide.grid(), [shared]) for slide in slides]
    with Engine(CPU) as engine:
        together(engine, [(slide, [part]) for slide, (part, _, _) in zip(slides, parts, strict=True)])
    assert "has a bug" in str(parts[1][0].error)
    assert "not finite" in str(parts[2][0].sinks[0].error)
    for place in (0, 3):
        part, (array,), (writer,) = parts[place]
        assert part.error is part.sinks[0].error is None
        np.testing.assert_array_equal(array[:], slides[place].expected(part.grid))
        writer.digest()


def test_a_failing_writer_fails_its_own_set_alone(tmp_path: Path) -> None:
    slide = ColourSlide()
    part, arrays, (_, writer) = part_of(tmp_path, slide.grid(), [resident(), resident(Mean(2.0))])

    def full(start: int, rows: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    part.sinks[0]._writer.add = full  # type: ignore[method-assign]
    with Engine(CPU) as engine:
        engine.encode(slide, [part], threads=2)
    assert isinstance(part.sinks[0].error, OSError)
    assert part.sinks[1].error is None
    writer.digest()
    np.testing.assert_array_equal(arrays[1][:], slide.expected(part.grid) * 2)


def test_two_encoders_of_one_grid_share_each_tile_and_other_grids_are_read_in_step(tmp_path: Path) -> None:
    order: list[int] = []

    class Noted(ColourSlide):
        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
            order.append(location[1])
            return super().read_region(location, level, size)

    slide = Noted(across=16, down=12)
    one, other = resident(), resident(Mean(2.0))
    fine, arrays, _ = part_of(tmp_path, slide.grid(), [one, other])
    coarse, (wide,), _ = part_of(tmp_path, slide.grid(2 * 32), [one])
    with Engine(CPU) as engine:
        engine.encode(slide, [fine, coarse], threads=1)
    assert slide.reads == len(fine.grid) + len(coarse.grid) == 192 + 48
    np.testing.assert_array_equal(arrays[0][:], slide.expected(fine.grid))
    np.testing.assert_array_equal(arrays[1][:], slide.expected(fine.grid) * 2)
    assert wide[:].any()
    furthest = np.maximum.accumulate(order)
    assert (furthest - np.array(order)).max() <= 2 * 32, "no grid runs ahead of the other by more than a row of tiles"


def test_out_of_memory_halves_the_batch_and_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Small(Mean):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(batch)

    module = Small()
    shared, slide = resident(module, batch=20), ColourSlide()
    part, (array,), (writer,) = part_of(tmp_path, slide.grid(), [shared])
    with caplog.at_level(logging.WARNING), Engine(CPU) as engine:
        engine.encode(slide, [part], threads=3)
    assert part.sinks[0].error is None
    np.testing.assert_array_equal(array[:], slide.expected(part.grid))
    writer.digest()
    assert shared.encoded_at_once == 5
    assert shared.halved
    assert set(module.batches) == {5}
    said = [record.getMessage() for record in caplog.records]
    assert [(text.split(" tiles at once")[0].rpartition(" ")[2]) for text in said] == ["20", "10"]
    assert "it goes on with 5" in said[1]


def test_a_device_without_room_for_one_tile_fails_the_slide(tmp_path: Path) -> None:
    class Full(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    slide = ColourSlide(across=4, down=2)
    part, _, _ = part_of(tmp_path, slide.grid(), [resident(Full(), batch=4)])
    with Engine(CPU) as engine:
        engine.encode(slide, [part], threads=2)
    assert isinstance(part.sinks[0].error, EncoderMemoryError)
    assert "--precision bf16" in str(part.sinks[0].error)


def test_a_part_batch_waits_for_a_slide_that_is_being_prepared_and_not_for_ever(tmp_path: Path) -> None:
    """The first slide's remainder is held back for the second; where none comes, it goes after a batch's time."""
    module = Mean()
    shared = resident(module, batch=16)
    first, second = ColourSlide(across=20, down=1), ColourSlide(across=12, down=1, blue=9)
    one, two, three = (part_of(tmp_path, slide.grid(), [shared]) for slide in (first, second, first))
    prepared = threading.Event()
    with Engine(CPU) as engine, ThreadPoolExecutor(2) as pool:

        def prepare_then_encode() -> None:
            with engine.expecting():
                prepared.set()
                wait_until(lambda: one[0].claimed == 20 and len(module.batches) == 1)
                engine.encode(second, [two[0]], threads=1)

        later = pool.submit(prepare_then_encode)
        prepared.wait(30)
        engine._lane(one[0]).patience_s = 60.0
        engine.encode(first, [one[0]], threads=1)
        later.result()
        assert module.batches == [16, 16], "20 + 12 tiles are two full batches"
        for lane in engine._lanes.values():
            lane.patience_s = 0.01
        with engine.expecting():
            threading.Thread(target=engine.encode, args=(first, [three[0]]), kwargs={"threads": 1}).start()
            wait_until(lambda: three[0].done)
    assert len(module.batches) == 4


def test_the_ring_is_bounded_and_waits_are_told(tmp_path: Path) -> None:
    module = Held()
    slide = ColourSlide(across=40, down=10)
    part, _, _ = part_of(tmp_path, slide.grid(), [resident(module, batch=8)])
    with Engine(CPU) as engine, ThreadPoolExecutor(1) as pool:
        done = pool.submit(engine.encode, slide, [part], threads=2)
        (ring,) = [wait_until(lambda: bool(engine._rings)), *engine._rings.values()][1:]
        wait_until(lambda: part.claimed >= (ring.most - 1) * 8)
        time.sleep(0.1)
        assert part.claimed <= ring.most * 8, "readers go no further than there are batches"
        module.go.set()
        done.result()
    assert part.stats.read_wait_s > 0.05
    assert part.sinks[0].encode_s > 0
    assert part.stats.encode_wait_s > 0


def test_closing_wakes_a_slide_at_work(tmp_path: Path) -> None:
    module = Held()
    slide = ColourSlide()
    part, _, _ = part_of(tmp_path, slide.grid(), [resident(module)])
    engine = Engine(CPU)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(engine.encode, slide, [part], threads=2)
        wait_until(lambda: part.claimed > 0)
        closing = threading.Thread(target=engine.close)
        closing.start()
        with pytest.raises(RuntimeError, match="closed"):
            done.result(30)
        module.go.set()
        closing.join(30)
    assert not closing.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        engine.encode(slide, [part], threads=1)


def test_a_compiled_network_gives_what_the_plain_one_gives_and_a_failing_compiler_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = torch.randint(0, 255, (7, 8, 8, 3), dtype=torch.uint8)
    plain = resident().encode(batch)

    def broken(module: torch.nn.Module, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def fails(tiles: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler was found")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    encoder = Encoder(Mean(), CARD, EncoderSpec(batch_size=7), CPU)
    compiled = Resident(encoder, compile_mode="default")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compiled.encode(batch), plain)
        assert torch.equal(compiled.encode(batch), plain)
    (said,) = caplog.records
    assert "no C++ compiler" in said.getMessage()


def test_a_failed_device_ends_the_job_and_is_no_slides_fault(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune_pipeline.archive.manifest import read_manifest
    from pathotune_pipeline.encoders.stain_texture import StainTexture
    from pathotune_pipeline.execution import SerialExecutor
    from pathotune_pipeline.features import loaded
    from pathotune_pipeline.features.extract import plan_extract
    from pathotune_pipeline.features.plan import ExtractSpec
    from pathotune_pipeline.features.worker import process_slide
    from pathotune_pipeline.store import FeatureStore

    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(loaded, "_residents", {})
    monkeypatch.setattr(StainTexture, "forward", fails)
    store = FeatureStore(tmp_path / "s")
    plan = plan_extract(read_manifest(small_archive / "case-1"), ExtractSpec(), store)
    results = list(SerialExecutor(2).map(process_slide, plan.jobs))
    assert [type(result.error) for result in results] == [DeviceLostError] * 2
    assert "illegal memory access was encountered). Look" in str(results[0].error)
    assert not list((store.root / "staging").rglob("zarr.json"))


def test_an_engine_that_broke_down_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "_engines", {})
    first = engines.engine_of(CPU)
    slide = ColourSlide()
    part, _, _ = part_of(tmp_path, slide.grid(), [resident()])
    with monkeypatch.context() as patched:
        patched.setattr(Ring, "give", lambda *_: 1 / 0)
        with pytest.raises(RuntimeError, match="broke down"):
            first.encode(slide, [part], threads=1)
    second = engines.engine_of(CPU)
    assert second is not first
    assert engines.engine_of(CPU) is second


def test_engines_that_were_closed_take_no_slide_until_they_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engines, "_engines", {})
    slide = ColourSlide()
    part, _, _ = part_of(tmp_path, slide.grid(), [resident()])
    first = engines.engine_of(CPU)
    engines.close_engines()
    with pytest.raises(RuntimeError, match="closed"):
        engines.engine_of(CPU).encode(slide, [part], threads=1)
    engines.forget_closed_engines()
    second = engines.engine_of(CPU)
    assert second is not first
    second.encode(slide, [part], threads=1)
    assert part.done
    second.close()


@pytest.mark.gpu
def test_on_a_gpu_rows_agree_with_the_cpu_and_pixels_are_not_overwritten_under_way(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    slides = [ColourSlide(across=60, down=11, blue=number) for number in (1, 2, 3)]
    encoder = Resident(Encoder(Mean(), CARD, EncoderSpec(batch_size=16), device))
    parts = [part_of(tmp_path, slide.grid(), [encoder]) for slide in slides]
    with Engine(device) as engine:
        together(engine, [(slide, [part]) for slide, (part, _, _) in zip(slides, parts, strict=True)], threads=4)
    for slide, (part, (array,), _) in zip(slides, parts, strict=True):
        assert part.error is part.sinks[0].error is None
        np.testing.assert_allclose(array[:], slide.expected(part.grid), rtol=1e-3)


def test_where_the_writer_comes_to_grief_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, one thread launches and another takes rows; here both on the host."""

    module = Mean()

    def grief(name: str) -> None:
        wait_until(lambda: len(module.batches) == 4)  # one is taken, two wait, and the fourth finds no room
        raise ZeroDivisionError(name)

    monkeypatch.setattr("pathotune_pipeline.features.engine.failpoint", grief)
    monkeypatch.setattr("pathotune_pipeline.features.engine.CudaLane", lambda _: HostLane())
    monkeypatch.setattr(
        "pathotune_pipeline.features.engine.Ring", lambda shape, most, pinned: Ring(shape, most, pinned=not pinned)
    )
    slide = ColourSlide(across=40, down=10)
    part, _, _ = part_of(tmp_path, slide.grid(), [resident(module, batch=16)])
    engine = Engine(torch.device("cuda"))
    with pytest.raises(RuntimeError, match=r"broke down .*ZeroDivisionError"):
        engine.encode(slide, [part], threads=2)
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
