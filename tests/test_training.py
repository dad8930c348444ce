"""A training learns, keeps its best epoch, and comes to the same end however often it is interrupted."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import ModelSettings
from mnistflow.data import arrays
from mnistflow.data.arrays import Images, Split
from mnistflow.training import archive, augmentation, history, loop
from mnistflow.training.backend import GROUP, compile_options, make_reproducible, network, pipeline
from mnistflow.training.history import Epoch
from mnistflow.training.schedule import OneCycle
from mnistflow.training.state import Progress

SLOW = pytest.mark.slow  # of its fast tests, the small networks are enough
SETTINGS = ModelSettings(
    network="compact",
    seed=1,
    epochs=4,
    batch_size=30,
    optimizer="adam",
    learning_rate=0.004,
    beta_2=0.99,
    schedule="one_cycle",
    warmup=0.2,
    final=0.01,
    shift=1,
    patience=10,
)
Tiny = tuple[Split, Split]


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def train(
    tiny: Tiny, state: Path, name: str = "compact", interrupt_after: int | None = None, **changes: Any
) -> tuple[Any, Progress]:
    def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
        if rows[-1].epoch == interrupt_after:
            raise Interrupted

    settings = SETTINGS.model_copy(update={"network": name, **changes})
    return loop.train(name, settings, *tiny, 10, state, on_epoch)


@pytest.mark.parametrize("name", ["dense", pytest.param("cnn", marks=SLOW), "compact"])
def test_loss_falls(tiny: Tiny, tmp_path: Path, name: str) -> None:
    _, progress = train(tiny, tmp_path / "state.npz", name)
    losses = [epoch.loss for epoch in progress.history]
    assert losses[-1] < 0.5 * losses[0]
    assert progress.history[-1].val_accuracy > 0.5


@pytest.mark.parametrize(
    ("name", "average"), [pytest.param("cnn", None, marks=SLOW), ("compact", None), ("compact", 0.9)]
)
def test_an_interrupted_training_ends_in_the_same_bytes(
    tiny: Tiny, tmp_path: Path, name: str, average: float | None
) -> None:
    undisturbed, expected = train(tiny, tmp_path / "undisturbed.npz", name, epochs=3, average=average)
    state = tmp_path / "state.npz"
    with pytest.raises(Interrupted):
        train(tiny, state, name, epochs=3, average=average, interrupt_after=1)
    resumed, progress = train(tiny, state, name, epochs=3, average=average)
    assert progress.history == expected.history
    archive.save(tmp_path / "one.keras", undisturbed)
    archive.save(tmp_path / "two.keras", resumed)
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_averaged_weights_are_kept_and_training_goes_on_from_the_latest(tiny: Tiny, tmp_path: Path) -> None:
    # A step an epoch: the latest weights after each step are those of a training that ends there.
    steps = {"name": "dense", "batch_size": len(tiny[0].labels), "schedule": "constant"}
    latest = [train(tiny, tmp_path / f"{epochs}.npz", epochs=epochs, **steps)[0].get_weights() for epochs in (1, 2, 3)]
    model, progress = train(tiny, tmp_path / "average.npz", epochs=3, average=0.6, **steps)
    assert history.best(progress.history).epoch == 3
    for average, first, second, third in zip(model.get_weights(), *latest, strict=True):
        np.testing.assert_allclose(average, 0.6 * (0.6 * first + 0.4 * second) + 0.4 * third, atol=1e-6)


def test_smoothed_labels_make_a_network_as_sure_as_set(tiny: Tiny, tmp_path: Path) -> None:
    model, progress = train(tiny, tmp_path / "state.npz", "dense", epochs=30, smoothing=0.2, shift=0)
    images, labels = tiny[0]
    sure = model.predict(images, verbose=0)[np.arange(len(labels)), labels]
    assert sure.mean() == pytest.approx(0.8 + 0.2 / 10, abs=0.03)
    entropy = -0.82 * np.log(0.82) - 9 * 0.02 * np.log(0.02)
    assert progress.history[-1].loss == pytest.approx(entropy, abs=0.03)
    assert history.best(progress.history).val_loss > entropy


def misleading(tiny: Tiny) -> Tiny:
    """A validation set with wrong labels: the more a model learns, the worse it does there."""
    return tiny[0], Split(tiny[1].images, (tiny[1].labels + 1) % 10)


def test_the_best_epoch_is_kept_not_the_last(tiny: Tiny, tmp_path: Path) -> None:
    model, progress = train(misleading(tiny), tmp_path / "s.npz", "dense")
    best = history.best(progress.history)
    assert best.val_loss == min(epoch.val_loss for epoch in progress.history)
    assert best.epoch < progress.history[-1].epoch == SETTINGS.epochs
    model.compile(loss="sparse_categorical_crossentropy")
    assert model.evaluate(*misleading(tiny)[1], verbose=0) == pytest.approx(best.val_loss, rel=1e-5)


def test_patience_ends_a_training(tiny: Tiny, tmp_path: Path) -> None:
    _, progress = train(misleading(tiny), tmp_path / "s.npz", "dense", epochs=50, patience=2)
    assert len(progress.history) == history.best(progress.history).epoch + 2 < 50


def test_the_seed_decides_weights_order_and_shifts(tiny: Tiny, tmp_path: Path) -> None:
    first, again, other = (
        train(tiny, tmp_path / f"{place}.npz", "dense", epochs=1, seed=seed)[1].history
        for place, seed in enumerate((1, 1, 2))
    )
    assert first == again != other
    for shift in (0, 1):
        first_images = [
            next(augmentation.batches(tiny[0], SETTINGS.model_copy(update={"seed": seed, "shift": shift}), epoch=1))[0]
            for seed in (1, 2)
        ]
        assert not np.array_equal(*first_images)
    initial = []
    for seed in (1, 2):
        make_reproducible(seed)
        initial.append(network("dense").build((28, 28), 10).get_weights()[0])
    assert not np.array_equal(*initial)


def test_progress_is_told_in_steps_that_there_are(tiny: Tiny, tmp_path: Path) -> None:
    steps: list[int] = []
    settings = SETTINGS.model_copy(update={"network": "dense", "epochs": 1, "batch_size": 45})
    loop.train("dense", settings, *tiny, 10, tmp_path / "state.npz", lambda rows, seconds: None, steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == -(-len(tiny[0].labels) // 45)
    assert steps[-1] % GROUP  # the last execution is not a whole one


@pytest.mark.parametrize("size", [1, 7, 71])
def test_a_pipeline_gives_each_batch_once_and_in_order(tiny: Tiny, size: int) -> None:
    few = Split(*(array[:71] for array in tiny[0]))
    settings = SETTINGS.model_copy(update={"batch_size": size})
    expected = list(augmentation.batches(few, settings, epoch=1))
    with pipeline(iter(expected), len(expected), (28, 28)) as data:
        given = list(data)
    assert len(given) == len(expected)
    for actual, batch in zip(given, expected, strict=True):
        for one, other in zip(actual, batch, strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)


def test_a_split_is_read_in_pieces_and_validation_is_that_of_the_whole(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arrays.piece_size(tiny[0].images) == 1000
    monkeypatch.setattr(arrays, "PIECE", 70 * 28 * 28)
    arrays.save(tmp_path, tiny[0])
    for split in (tiny[0], arrays.load(tmp_path)):
        pieces = list(arrays.pieces(split))
        assert [len(piece.labels) for piece in pieces] == [70, 70, 70, 70, 20]
        np.testing.assert_array_equal(np.concatenate([piece.images for piece in pieces]), tiny[0].images)
        np.testing.assert_array_equal(np.concatenate([piece.labels for piece in pieces]), tiny[0].labels)
    model = network("dense").build((28, 28), 10)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], **compile_options())
    with pipeline(arrays.pieces(split), 5, (28, 28)) as data:
        assert model.evaluate(data, verbose=0) == model.evaluate(*tiny[0], batch_size=70, verbose=0)


@pytest.mark.parametrize(
    ("harm", "reason"), [(lambda file: os.truncate(file, 9000), "has become shorter"), (os.remove, "is gone")]
)
def test_images_that_are_lost_on_the_way_end_a_training_in_a_sentence(
    tiny: Tiny, tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    arrays.save(tmp_path, tiny[0])
    on_disk = arrays.load(tmp_path), tiny[1]

    def on_epoch(rows: Sequence[Epoch], seconds: float) -> None:
        harm(tmp_path / "images.npy")

    with pytest.raises(WorkflowError, match=rf"images\.npy {reason}"):
        loop.train("dense", SETTINGS, *on_disk, 10, tmp_path / "state.npz", on_epoch)


def test_a_diverging_training_stops_with_epoch_and_rate(tiny: Tiny, tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    with pytest.raises(WorkflowError, match=r"diverged: its loss is .* in epoch 1, .* learning rate of 1e\+30"):
        train(tiny, state, "dense", schedule="constant", learning_rate=1e30)
    assert not state.exists()


def test_a_damaged_state_is_not_used(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.npz"
    _, expected = train(tiny, state, "dense", epochs=1)
    whole = state.read_bytes()
    middle = len(whole) // 2
    flips = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in (8, middle, len(whole) - 50)]
    for content in (whole[:-10], b"", *flips):
        state.write_bytes(content)
        _, progress = train(tiny, state, "dense", epochs=1)
        assert progress.history == expected.history
        assert f"{state} is damaged" in capsys.readouterr().out


def test_what_a_training_depends_on_is_in_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = SETTINGS.model_copy(update={"learning_rate": 0.001})
    prints = [
        loop.fingerprint(*arguments)
        for arguments in (
            ("compact", SETTINGS, "a", "b"),
            ("cnn", SETTINGS, "a", "b"),
            ("compact", changed, "a", "b"),
            ("compact", SETTINGS, "c", "b"),
            ("compact", SETTINGS, "a", "c"),
        )
    ]
    with monkeypatch.context() as patch:
        patch.setenv("TF_NUM_INTRAOP_THREADS", "7")
        prints.append(loop.fingerprint("compact", SETTINGS, "a", "b"))
    assert len(set(prints)) == 6
    assert loop.fingerprint("compact", SETTINGS.model_copy(), "a", "b") == prints[0]


def test_batches_hold_every_image_once_in_an_order_of_the_seed_and_epoch(tiny: Tiny) -> None:
    still = SETTINGS.model_copy(update={"shift": 0})

    def order(settings: ModelSettings, epoch: int) -> list[bytes]:
        return [image.tobytes() for images, _ in augmentation.batches(tiny[0], settings, epoch) for image in images]

    assert sorted(order(still, 1)) == sorted(image.tobytes() for image in tiny[0].images)
    assert order(still, 1) == order(still, 1)
    assert order(still, 1) != order(still, 2)
    assert order(SETTINGS, 1) == order(SETTINGS, 1)
    assert sorted(order(SETTINGS, 1)) != sorted(order(SETTINGS, 2))


def test_shifts_move_and_do_not_change(tiny: Tiny) -> None:
    images = tiny[0].images[:50]
    moved = augmentation.shifted(images, 2, np.random.default_rng(0))
    offsets = set()
    for before, after in zip(images, moved, strict=True):
        padded = np.pad(before, 2)
        matches = {
            (down, right)
            for down in range(5)
            for right in range(5)
            if np.array_equal(padded[down : down + 28, right : right + 28], after)
        }
        assert matches
        offsets |= matches
    assert len(offsets) > 15


def test_turns_are_about_the_centre_and_as_wide_as_set(tiny: Tiny) -> None:
    images, random = tiny[0].images[:50], np.random.default_rng(0)
    np.testing.assert_array_equal(augmentation.distorted(images, 0, 0, 0, random), images)
    bar = np.zeros((200, 28, 28), np.uint8)
    bar[:, 13:15, 4:24] = 255
    rows, columns = np.indices((28, 28))

    def angles_and_lengths(turned: Images) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Of the axis along which each image's ink lies, from its second moments."""
        ink = turned.astype(float) / turned.sum(axis=(1, 2), keepdims=True)
        y, x = rows - 13.5, columns - 13.5
        assert np.abs((ink * y).sum(axis=(1, 2))).max() < 0.1
        xx, yy, xy = ((ink * product).sum(axis=(1, 2)) for product in (x * x, y * y, x * y))
        return np.rad2deg(np.arctan2(2 * xy, xx - yy) / 2), np.sqrt(12 * (xx + yy))

    angles, lengths = angles_and_lengths(augmentation.distorted(bar, 20, 0, 0, random))
    assert -20.5 < angles.min() < -17
    assert 17 < angles.max() < 20.5
    assert lengths == pytest.approx(20, abs=0.6)
    angles, lengths = angles_and_lengths(augmentation.distorted(bar, 0, 0.2, 0, random))
    assert np.abs(angles).max() < 0.1
    assert 15.5 < lengths.min() < 17
    assert 23 < lengths.max() < 24.7


def test_bent_images_are_smooth_and_move_no_further_than_set() -> None:
    ramp = np.broadcast_to(np.arange(28, dtype=np.uint8) * 8, (100, 28, 28))  # its values tell where a pixel came from
    moves = []
    for images in (ramp, ramp.transpose(0, 2, 1)):
        bent = augmentation.distorted(images, 0, 0, 2, np.random.default_rng(0))
        moves.append(((bent.astype(float) - images) / 8)[:, 2:-2, 2:-2])  # at the edges, zeros come in
    right, down = moves
    assert abs(np.corrcoef(right.ravel(), down.ravel())[0, 1]) < 0.2
    for move in moves:
        assert np.abs(move).max() <= 2 + 1 / 16  # values are rounded
        assert np.abs(move).max() > 1.8
        for axis in (1, 2):
            steps = np.diff(move, axis=axis)
            assert np.abs(steps).max() < 4 / 9 + 1 / 8  # of two points, nine pixels apart, four pixels at most
            halves = np.array_split(steps, 2, axis=axis)  # a stretch alone would move both by as much
            assert np.abs(halves[0].mean(axis=axis) - halves[1].mean(axis=axis)).max() > 0.2


@pytest.mark.parametrize("change", [{"rotate": 20.0}, {"zoom": 0.3}, {"bend": 3.0}])
def test_each_setting_changes_the_images_of_a_training(tiny: Tiny, change: dict[str, float]) -> None:
    settings = SETTINGS.model_copy(update={"shift": 0, **change})
    images, _ = next(augmentation.batches(tiny[0], settings, 1))
    unchanged, _ = next(augmentation.batches(tiny[0], settings.model_copy(update=dict.fromkeys(change)), 1))
    limits = [change.get(key, 0.0) for key in ("rotate", "zoom", "bend")]
    expected = augmentation.distorted(unchanged, *limits, np.random.default_rng((settings.seed, 1, 0)))
    assert not np.array_equal(images, unchanged)
    np.testing.assert_array_equal(images, expected)


def test_one_cycle_climbs_to_its_peak_and_falls_to_its_end() -> None:
    cycle = OneCycle(peak=0.01, steps=100, warmup=0.2, final=0.05)
    rates = [float(cycle(step)) for step in range(100)]
    assert max(rates) == rates[19] == pytest.approx(0.01)
    assert rates[0] == pytest.approx(0.01 / 20)
    assert rates[-1] == pytest.approx(0.0005)
    assert np.allclose(np.diff(rates[:20]), np.diff(rates[:20])[0], atol=1e-8)


def test_history_is_written_and_read(tmp_path: Path) -> None:
    rows = [Epoch(1, 0.1, 0.2, 1 / 3, 0.4, 1e-9), Epoch(2, 0.1, 0.2, 0.3, 0.4, 0.5)]
    history.write(tmp_path / "history.csv", rows)
    assert history.read(tmp_path / "history.csv") == rows
    (tmp_path / "history.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(WorkflowError, match="is damaged"):
        history.read(tmp_path / "history.csv")


def test_a_batch_larger_than_the_training_set_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"models\.dense\.batch_size is 301, but there are 300"):
        train(tiny, tmp_path / "state.npz", "dense", batch_size=301)


def test_colour_images_are_moved_in_all_channels_alike(tiny: Tiny) -> None:
    grey = tiny[0].images[:20]
    colour = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    for change in (
        augmentation.shifted,
        lambda images, size, random: augmentation.distorted(images, 10, 0.1, 2, random),
    ):
        expected = change(grey, 2, np.random.default_rng(0))
        changed = change(colour, 2, np.random.default_rng(0))
        for channel in range(3):
            np.testing.assert_array_equal(changed[..., channel], expected)
