"""Batches, the sampler's coverage, the CTC filter and SpecAugment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, Fbank, FbankConfig, MonoCut, Recording, SupervisionSegment
from lhotse.features.io import NumpyFilesWriter
from tiny import tiny_model

from ctcsd.config import AugmentConfig, Config, FeaturesConfig
from ctcsd.data.augment import spec_augment
from ctcsd.data.batches import (
    CtcDataset,
    bucketing_sampler,
    by_reason,
    in_order,
    pad_to_few_lengths,
    trainable,
)
from ctcsd.data.features import compute_features, cuts_file, load_cuts, select_speaker
from ctcsd.data.integrity import KeptFeatures, read_features
from ctcsd.data.shares import Shares
from ctcsd.errors import UserError
from ctcsd.text.tokenizer import TokenTable, UnknownWord
from ctcsd.train.infer import write_posteriors


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> CutSet:
    """120 cuts of 0.5 to 6 seconds with features on disk; speaker a or b; text `x` times the cut's number mod 7."""
    folder = tmp_path_factory.mktemp("cuts")
    rng = np.random.default_rng(0)
    made = []
    with NumpyFilesWriter(folder) as writer:
        for i in range(120):
            frames = int(rng.integers(50, 600))
            recording = Recording(f"c{i}", [], 16000, frames * 160, frames / 100)
            text, speaker = " ".join("x" * (i % 7 + 1)), "ab"[i % 2]
            supervision = SupervisionSegment(f"c{i}", f"c{i}", 0, recording.duration, text=text, speaker=speaker)
            cut = MonoCut(f"c{i}", 0, recording.duration, 0, supervisions=[supervision], recording=recording)
            features = rng.normal(size=(frames, 80)).astype(np.float32)
            stored = writer.store_array(f"c{i}", features, frame_shift=0.01, temporal_dim=0, start=0)
            from lhotse.features import Features

            cut.features = Features(
                "fbank", frames, 80, 0.01, 16000, 0, recording.duration, "numpy_files",
                stored.array.storage_path, stored.array.storage_key, f"c{i}", 0,
            )  # fmt: skip
            made.append(cut)
    return CutSet.from_cuts(made)


def epoch(cuts: CutSet, number: int, **options) -> list[list[str]]:
    sampler = bucketing_sampler(cuts, max_duration=30, num_buckets=8, seed=3, epoch=number, **options)
    return [[cut.id for cut in batch] for batch in sampler]


def test_an_epoch_sees_each_cut_once_in_an_order_of_its_own(cuts: CutSet) -> None:
    first = epoch(cuts, 0)
    assert sorted(i for batch in first for i in batch) == sorted(c.id for c in cuts)
    assert first == epoch(cuts, 0)
    assert first != epoch(cuts, 1)
    lengths = {c.id: c.duration for c in cuts}
    for batch in first:
        assert sum(lengths[i] for i in batch) <= 30
    with pytest.raises(UserError, match="max_duration=2 is shorter than the longest cut, 6.0"):
        bucketing_sampler(cuts, 2, 8, 0, 0)


def test_more_cuts_than_the_buffer_are_mixed_first(cuts: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctcsd.data.batches.BUFFER", 24)
    first, second = epoch(cuts, 0), epoch(cuts, 1)
    assert first == epoch(cuts, 0) != second
    for batches in (first, second):
        assert sorted(i for batch in batches for i in batch) == sorted(c.id for c in cuts)
        numbers = [int(i[1:]) for batch in batches for i in batch]
        assert min(numbers[:20]) < 40 and max(numbers[:20]) > 80, "the file's end comes in the first batches too"
    sampler = bucketing_sampler(cuts, max_duration=30, num_buckets=8, seed=3, epoch=1)
    assert [[cut.id for cut in batch] for batch in Shares(sampler, done=4)] == second[4:], "a resumed epoch"


def test_a_seed_is_no_other_seeds_next_epoch(cuts: CutSet) -> None:
    orders = [list(bucketing_sampler(cuts, 30, 8, seed, number)) for seed, number in ((1, 1), (2, 0))]
    assert [cut.id for batch in orders[0] for cut in batch] != [cut.id for batch in orders[1] for cut in batch]


def test_batches_are_hardly_padded() -> None:
    """Of utterances whose number and lengths are as those of fotaq's `joe`: 4.3 %, as there, with its batches."""
    seconds = np.random.default_rng(0).lognormal(0.73, 0.44, 1654).clip(0.5, 7.0)
    made = [MonoCut(f"c{i}", 0, round(float(length), 2), 0) for i, length in enumerate(seconds)]
    lengths = {cut.id: cut.duration for cut in made}
    sampler = bucketing_sampler(CutSet.from_cuts(made), max_duration=30, num_buckets=20, seed=1, epoch=0)
    batches = [[lengths[cut.id] for cut in batch] for batch in sampler]
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert 1 - sum(map(sum, batches)) / padded < 0.05


def test_in_order_covers_everything_within_bounds(cuts: CutSet) -> None:
    batches = in_order(cuts, 30)
    assert sorted(c.id for batch in batches for c in batch) == sorted(c.id for c in cuts)
    for batch in batches:
        assert len(batch) * max(c.duration for c in batch) <= 30


def test_dataset_pads_and_touches_no_text_without_labels(cuts: CutSet) -> None:
    some = CutSet.from_cuts(list(cuts)[:5])
    batch = CtcDataset(lambda text: [1] * len(text.split()))[some]
    assert batch.features.shape == (5, int(batch.lengths.max()), 80)
    by_id = {c.id: c for c in some}
    for i, cut_id in enumerate(batch.cut_ids):
        length = int(batch.lengths[i])
        np.testing.assert_array_equal(batch.features[i, :length].numpy(), by_id[cut_id].load_features())
        assert batch.target_lengths[i] == len(batch.texts[i].split()) == int(cut_id[1:]) % 7 + 1

    class Poisoned(str):
        def __bool__(self) -> bool:
            raise AssertionError("the transcript was touched")

    for cut in some:
        cut.supervisions[0].text = Poisoned("secret")
    unlabelled = CtcDataset()[some]
    assert unlabelled.targets is None and unlabelled.texts == []
    with pytest.raises(AssertionError, match="touched"):
        CtcDataset(lambda text: [])[some]


def test_features_are_kept_in_memory_as_long_as_there_is_room(cuts: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [CutSet.from_cuts(list(cuts)[i : i + 5]) for i in range(0, 15, 5)] + [CutSet.from_cuts([cuts[15]])]
    wanted = [read_features(batch) for batch in batches]
    room = sum(cut.num_frames for batch in batches[1:] for cut in batch) * 80 * 4
    kept = KeptFeatures(room / 2**20)

    def check(which: list[int]) -> None:
        for i in which:
            features, lengths = kept.read(batches[i])
            assert torch.equal(features, wanted[i][0]) and torch.equal(lengths, wanted[i][1])
            features.zero_()  # a batch is a copy, also of one cut alone: SpecAugment may write into it

    check([1, 2, 3, 0])  # the first batch is read when there is no room left
    monkeypatch.setattr(MonoCut, "load_features", lambda cut: 1 / 0)
    check([3, 2, 1])
    with pytest.raises(UserError, match="damaged"):
        kept.read(batches[0])
    with pytest.raises(UserError, match="damaged"):
        KeptFeatures(0).read(batches[1])


@pytest.mark.parametrize("shape", [(3, 1, 80), (2, 319, 80), (4, 321, 80), (4, 1501, 80), (2, 16001)])
def test_few_lengths(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape)
    padded = pad_to_few_lengths(features)
    length, longer = shape[1], padded.size(1)
    assert padded.shape == (shape[0], longer, *shape[2:]) and length <= longer < 1.025 * length
    assert torch.equal(padded[:, :length], features) and not padded[:, length:].any()
    assert pad_to_few_lengths(padded).shape == padded.shape


def test_there_are_few_lengths(cuts: CutSet) -> None:
    long = CutSet.from_cuts([cut for cut in cuts if cut.num_frames >= 320])
    batches = [CtcDataset(few_lengths=True)[CutSet.from_cuts([cut])] for cut in long]
    assert [int(batch.lengths[0]) for batch in batches] == [cut.num_frames for cut in long]
    assert len({batch.features.size(1) for batch in batches}) < 0.6 * len({cut.num_frames for cut in long})


def test_trainable_leaves_out_what_ctc_cannot_emit(cuts: CutSet) -> None:
    def encode(text: str) -> list[int]:
        return [1] * (4 * len(text.split()))  # every adjacent pair is equal: 8 n - 1 frames are needed

    fresh = CutSet.from_cuts(MonoCut.from_dict(c.to_dict()) for c in cuts)
    for cut in fresh:
        cut.supervisions[0].text = " ".join("x" * (int(cut.id[1:]) % 7 + 1))
    kept, dropped = trainable(fresh, encode, max_seconds=5.0)
    wanted = [c.id for c in fresh if c.duration <= 5.0 and -(-c.num_frames // 4) >= 8 * (int(c.id[1:]) % 7 + 1) - 1]
    assert [c.id for c in kept] == wanted
    assert [name for name, _ in dropped] == [c.id for c in fresh if c.id not in wanted]
    assert sum(by_reason(dropped).values()) == len(dropped)
    assert all(by_reason(dropped).values()), "both reasons occur"
    with pytest.raises(UserError, match="no training cut is left"):
        trainable(fresh, encode, max_seconds=0.1)


def test_words_without_pronunciation(cuts: CutSet) -> None:
    """An utterance with one is not trained on, and says why; on dev its other phones are compared."""

    def encode(text: str) -> list[int]:
        if "gnu" in text.split():
            raise UnknownWord("'gnu' has no pronunciation")
        return [1]

    fresh = CutSet.from_cuts(MonoCut.from_dict(c.to_dict()) for c in list(cuts)[:4])
    for cut, text in zip(fresh, ("the gnu", "the cat", "a gnu", "a cat")):
        cut.supervisions[0].text = text
    kept, dropped = trainable(fresh, encode, max_seconds=1e6)
    ids = [cut.id for cut in fresh]
    assert [cut.id for cut in kept] == ids[1::2] and [cut_id for cut_id, _ in dropped] == ids[::2]
    assert by_reason(dropped)["a word without pronunciation"] == 2
    assert dropped[0][1].detail == "'gnu' has no pronunciation: the gnu"
    batch = CtcDataset(as_decoded=str.upper)[fresh]
    assert batch.targets is None and batch.texts == ["THE GNU", "THE CAT", "A GNU", "A CAT"]


def test_speakers(cuts: CutSet) -> None:
    assert {c.supervisions[0].speaker for c in select_speaker(cuts, "a", "train")} == {"a"}
    assert select_speaker(cuts, None, "train") is cuts
    with pytest.raises(UserError, match="no cut of speaker 'z' in split 'train'"):
        select_speaker(cuts, "z", "train")


def test_spec_augment_masks_valid_frames_within_bounds() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([100, 37, 1, 0])
    features = torch.randn(4, 120, 80) + 7
    cfg = AugmentConfig(time_masks=2, time_width=25, time_fraction=0.15, freq_masks=2, freq_width=15)
    seen = 0.0
    for _ in range(50):
        masked = spec_augment(features, lengths, cfg)
        changed = masked != features
        times, bins = changed.all(2), changed.all(1)
        for n, length in enumerate(lengths.tolist()):
            assert not times[n, length:].any() or bins[n].all()
            assert int(times[n].sum()) <= 0.15 * length + 2
            assert int(bins[n].sum()) <= 30
            if changed[n].any():
                mean = features[n, :length].mean(0) if length else torch.zeros(80)
                torch.testing.assert_close(masked[n][changed[n]], mean.expand(120, 80)[changed[n]])
        seen += float(times[0].sum()) / 100
    assert 0.05 < seen / 50 < 0.15, "masks are drawn"
    off = AugmentConfig(time_masks=0, freq_masks=0)
    assert torch.equal(spec_augment(features, lengths, off), features)


def test_features_are_lhotses_and_skipped_when_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import soundfile

    rng = np.random.default_rng(0)
    (tmp_path / "manifests").mkdir()
    made = []
    for i in range(4):
        path = tmp_path / f"a {i}.flac"
        soundfile.write(path, rng.normal(size=16000 + 1600 * i) * 0.1, 16000)
        made.append(Recording.from_file(path).to_cut())
    CutSet.from_cuts(made).to_file(tmp_path / "manifests" / "cuts_train.jsonl.gz")
    cfg = Config(features=FeaturesConfig(speeds=[0.9]))
    target = compute_features(tmp_path, cfg, "train", jobs=2)
    assert target == cuts_file(tmp_path, cfg, "train") == tmp_path / "fbank80" / "cuts_train_sp0.9.jsonl.gz"
    stored = load_cuts(target, stage=1)
    assert len(stored) == 8
    extractor = Fbank(FbankConfig(sampling_rate=16000, num_mel_bins=80))
    for cut in stored:
        wanted = extractor.extract(cut.load_audio(), 16000)
        assert cut.load_features().shape == (cut.num_frames, 80)
        np.testing.assert_allclose(cut.load_features(), wanted, atol=0.1)  # lilcom is lossy
    capsys.readouterr()
    compute_features(tmp_path, cfg, "train", jobs=1)
    assert "up to date" in capsys.readouterr().out
    target.unlink()
    compute_features(tmp_path, cfg, "train", jobs=1)
    assert "is gone" in capsys.readouterr().out and target.is_file()
    cfg.features.speeds = [0.9, 1.0, 1.0]  # the original counts once
    assert compute_features(tmp_path, cfg, "train") == target and "up to date" in capsys.readouterr().out
    cfg.features.speeds = [1.0]
    assert cuts_file(tmp_path, cfg, "train").name == "cuts_train.jsonl.gz"
    assert len(load_cuts(compute_features(tmp_path, cfg, "train", jobs=1), stage=1)) == 4


def test_posteriors_of_other_mel_bins_are_refused(cuts: CutSet, tmp_path: Path) -> None:
    model, table = tiny_model(num_mel_bins=78).eval(), TokenTable(["<blk>", *"abcd"])
    with pytest.raises(UserError, match="the model reads 78 mel bins, but cut c[0-9]+ has 80"):
        write_posteriors(model, cuts, {"student": tmp_path / "a"}, table)


def test_features_refuse_the_wrong_rate_and_what_is_not_there(tmp_path: Path) -> None:
    import soundfile

    (tmp_path / "manifests").mkdir()
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    cuts = CutSet.from_cuts([Recording.from_file(tmp_path / "a.wav").to_cut()])
    cuts.to_file(tmp_path / "manifests" / "cuts_train.jsonl.gz")
    with pytest.raises(UserError, match="at 8000 Hz, not 16000"):
        compute_features(tmp_path, Config(), "train")
    with pytest.raises(UserError, match="cuts_dev.jsonl.gz: run stage 0"):
        compute_features(tmp_path, Config(), "dev")
    damaged = tmp_path / "manifests" / "cuts_test.jsonl.gz"
    damaged.write_bytes((tmp_path / "manifests" / "cuts_train.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged"):
        compute_features(tmp_path, Config(), "test")
