"""What can be set, and the defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Optional

CONFORMER = "conformer"  # model.backbone: the encoder that is not pretrained
PHONE_KEYS = ("lexicon", "stress", "word_end", "missing")  # of lang: no others than phones know them


@dataclass
class ModelConfig:
    """The encoder; `exits` maps an exit's name to its layer (1 is the first).

    A pretrained backbone brings its own sizes: of the conformer's, only `layers` counts, how many of its own are used.
    """

    backbone: str = CONFORMER  # or a pretrained one: a hub name or a folder of Hugging Face transformers
    layers: int = 8
    dim: int = 144
    heads: int = 4
    ff_mult: int = 4
    conv_kernel: int = 15
    subsampling_channels: int = 32
    dropout: float = 0.0
    self_conditioned: bool = False  # exits below the highest one feed their posteriors back (2104.02724)
    num_mel_bins: int = 80
    pool: int = 1  # pretrained: frames (of 20 ms) that are averaged before the heads
    mask_prob: float = 0.05  # pretrained, in training: share of the frames that masks cover (but for overlaps)
    mask_width: int = 10  # pretrained, in training: frames of a mask
    freeze_feature_encoder: bool = True  # pretrained: its convolutions never learn
    freeze_steps: float = 0.0  # share of the training, at its start, in which only the heads learn
    gradient_checkpointing: bool = False  # pretrained: less memory, a third more time
    vocab_size: int = 0  # set from the lang dir
    exits: dict[str, int] = field(default_factory=dict)

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass
class DistillConfig:
    """Three of the four choices of a method: who teaches, which frames count, how they are matched."""

    teacher: Optional[str] = None  # self | view | self_view | checkpoint | archive
    checkpoint: Optional[str] = None  # run folder of the frozen teacher; default: the run of `depends`
    archive: Optional[str] = None  # its posteriors of the training cuts; default: made from the checkpoint
    top_k: int = 0  # tokens of a frame that such a default archive keeps; 0: all
    frames: str = "all"
    match: str = "kl"  # kl | l2 | guide
    temperature: float = 1.0
    reduction: str = "per_label"  # per_label | per_frame | per_utterance | hilmes


@dataclass
class LangConfig:
    """Units of the output: characters, sentencepiece BPE of `vocab_size` pieces, phones; and the word n-gram model."""

    unit: str = "char"  # char | bpe | phone
    vocab_size: int = 200
    lexicon: Optional[str] = None  # phone: a pronunciation dictionary, cmudict's or Kaldi's format, plain or .gz
    stress: bool = False  # phone: keep the digits at the ends of phones (AH0)
    word_end: bool = False  # phone: mark the last phone of a word (AH#)
    missing: str = "drop"  # phone: words that the dictionary lacks: drop (their utterances) | spell (by rule) | error
    text: str = "train"  # the split whose text they are made from
    lm_order: int = 3  # 1 to 5; 0: no n-gram model
    lm_text: Optional[str] = None  # a file of further sentences for it, one per line, plain or .gz
    lm_arpa: Optional[str] = None  # an ARPA file, plain or .gz, that is taken (in lower case) instead of estimating one
    lm_prune: list[int] = field(default_factory=list)  # per order: n-grams that occur as often or less are left out

    @property
    def name(self) -> str:
        """The name of the lang dir."""
        return f"lang_bpe{self.vocab_size}" if self.unit == "bpe" else f"lang_{self.unit}"


@dataclass
class FeaturesConfig:
    """Log-mel filterbank, 25 ms windows every 10 ms, or the wave itself; and the training set's perturbed copies."""

    type: str = "fbank"  # fbank | wave: 16 kHz samples, read from the audio as batches are made
    num_mel_bins: int = 80
    speeds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder of the cut sets."""
        return self.type if self.type == "wave" else f"{self.type}{self.num_mel_bins}"


@dataclass
class DataConfig:
    """Splits by the names of their cut sets, and batches by seconds of audio."""

    train: str = "train"
    dev: str = "dev"
    test: str = "test"
    speaker: Optional[str] = None  # only this speaker, in every split
    more_tests: list[str] = field(default_factory=list)  # further splits that are decoded and scored
    shar: Optional[str] = None  # folder of the training cuts in shards, read from end to end (ctcsd shar)
    streams: int = 1  # shar: streams that the shards are dealt to, no fewer than processes; they share max_duration
    max_duration: float = 100.0  # seconds of audio in a batch, which all processes share
    num_buckets: int = 20
    max_seconds: float = 15.0  # longer training cuts are left out
    workers: int = 0  # processes that read batches ahead; on a CPU they take their time from the training
    keep_mib: float = 512.0  # MiB of a split's features that stay in memory after the first epoch; of workers: none
    max_bad: float = 0.05  # share of a split's cuts whose features may be unreadable before the training stops

    @property
    def decoded(self) -> list[str]:
        """The splits that are decoded and scored."""
        return [self.dev, self.test, *self.more_tests]


@dataclass
class AugmentConfig:
    """SpecAugment (1904.08779): widths in frames and mel bins; 0 masks switch it off.

    With two views, a batch holds each utterance twice, under different masks; it then counts as two epochs, so that
    train.epochs means the same amount of work for every method.
    """

    views: int = 1
    time_masks: int = 2
    time_width: int = 25
    time_fraction: float = 0.15  # no more than this share of an utterance is masked in time
    freq_masks: int = 2
    freq_width: int = 15


@dataclass
class TrainConfig:
    """The schedule. lr is the peak of a linear warm-up and a cosine that ends at lr * final_lr."""

    epochs: int = 10
    lr: float = 1e-3
    final_lr: float = 0.02
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    layer_decay: float = 1.0  # the learning rate of a layer is this times that of the next higher one; heads: all of it
    clip: float = 2.0
    precision: str = "auto"  # auto | 32 | bf16 | fp16
    average: int = 3  # how many of the best checkpoints are kept and averaged
    evaluate_every: int = 1  # epochs
    save_minutes: float = 10.0  # between checkpoints within an epoch; each epoch ends with one
    guard: bool = True  # stop when the loss stays far above its running level
    split_on_oom: bool = False  # a batch that does not fit in memory goes through in halves
    preflight: bool = True  # the heaviest batches go through once before the first epoch
    devices: int = 1  # processes on a machine: GPUs, or CPU processes where there is none
    nodes: int = 1  # machines
    strategy: str = "auto"  # auto | ddp | fsdp; auto takes ddp for several processes
    accumulate: int = 1  # passes in which a process takes its share of a batch; the step is the same
    threads: int = 0  # of a process, on the CPU; 0: torch's choice, one per core


@dataclass
class DecodeConfig:
    """Search methods to run on every exit, and their options; docs/decoding.md has them by method.

    `METHOD+OPTION=VALUE` is a variant with a folder of its own.
    """

    methods: list[str] = field(default_factory=lambda: ["greedy", "k2-1best"])
    prior: Optional[str] = None  # .npy of the tokens' probabilities; default: the exit's mean posterior on train
    prior_scale: float = 0.0  # prior_scale * ln prior is subtracted from the log-probs
    lm_scale: Optional[float] = None  # of ln p(words); default: 0.5 where the search has a language model
    word_score: float = 0.0  # beam: added for each word, or token with token_lm
    lexicon: bool = False  # beam: only words of lexicon.txt
    token_lm: Optional[str] = None  # beam without a lexicon: ARPA file of an n-gram model of tokens
    beam: int = 20  # beam: hypotheses kept after each frame
    beam_threshold: float = 50.0  # beam: nats behind the best one
    beam_tokens: int = 40  # beam: tokens of a frame that are tried, the best ones; 0: all
    graph: str = "HLG"  # wfst, k2-nbest: H | HL | HLG
    topo: str = "standard"  # k2: CTC's topology, or modified: a token may follow itself without a blank between
    max_arcs: int = 20_000_000  # wfst and k2: a larger graph is not made
    search_beam: Optional[float] = None  # wfst (default: 15), k2 (20), k2-1best (4): nats behind the best path so far
    output_beam: float = 8.0  # k2: nats behind the best path, of paths kept in the lattice
    min_active: Optional[int] = None  # wfst and k2 (default: 20), k2-1best (1): states of a frame, whatever the beam
    max_active: int = 10000  # wfst and k2: states of a frame
    nbest: int = 0  # length of n-best lists; 0: none, and k2-nbest: all that are found
    num_paths: int = 100  # k2-nbest: drawn from the lattice
    nbest_scale: float = 0.5  # k2-nbest: of the lattice's scores as paths are drawn; the smaller the more varied
    rescore_lm: Optional[str] = None  # k2-rescore, k2-nbest: ARPA file
    rescore_scale: Optional[float] = None  # of its ln p(words); default: lm_scale, or 0.5 where that is 0
    per_method: dict[str, Any] = field(default_factory=dict)  # {method: {option: value}}: for this method only


@dataclass
class ScoreConfig:
    """What is done to references and hypotheses alike before they are compared."""

    normalize: str = "none"  # none | lower | nopunct (lower case, letters, digits and apostrophes only)


@dataclass
class Config:
    """Everything that a run depends on; saved, resolved, beside its checkpoints."""

    corpus: str = ""
    method: str = ""
    seed: int = 1
    student_layers: int = 4
    depends: Optional[str] = None  # a method that is trained first: the separate teacher, or else the encoder's start
    init_from: Optional[str] = None  # run folder whose encoder this one starts from; its heads are new
    lang: LangConfig = field(default_factory=LangConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    weights: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    @property
    def passes(self) -> int:
        """Passes over the training data: train.epochs, where each view of an utterance counts."""
        return max(1, round(self.train.epochs / self.augment.views))
