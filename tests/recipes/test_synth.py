"""The recipe synth: its sentences, its voices, and the whole recipe on a made-up set of transcripts."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import lhotse
import numpy as np
import pytest

from ctcsd.config import load_config
from ctcsd.data.splits import check_bounds
from ctcsd.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "egs/synth"
LOCAL = RECIPE / "local"


@pytest.fixture(scope="module")
def recipe():
    """The module prepare.py, imported as a script finds its neighbours."""
    sys.path.insert(0, str(LOCAL))
    import prepare

    yield prepare
    sys.path.remove(str(LOCAL))
    for name in ("prepare", "espeak", "fortunes"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        ("The sky knows\nthe reasons.  So will you, too!\n", ["The sky knows the reasons.", "So will you, too!"]),
        ("I saw Mr. Brown there. He left at once.", ["He left at once."]),  # read "mister", written "mr"
        ("P. T. Barnum was right.  He often was.", ["He often was."]),
        ("Wait for it ... here it comes.  That was it...", ["That was it..."]),
        ('"Don\'t," said I, "it\'s broken."\n\t\t-- A. Man, "It is a good book."', ["Don't, said I, it's broken."]),
        ("One is enough here.\n[From a book.  It is long.]", ["One is enough here."]),
        ("Never trust a VAX.  SHOUTING IS NO GOOD.  Say it twice.", ["Say it twice."]),
        ("Press c to go on.  Well, hmm, brrr.  A cat sat there.", ["A cat sat there."]),
        ("It was 1984 then.  Costs are $5.  He paid 50% of it.  Fine with me.", ["Fine with me."]),
        ("Murphy's Law: it will fail.  x = y + z.  Is it so?", ["Is it so?"]),
        ("Two words.  " + "word " * 16 + "end.  " + "And so " + "on " * 12 + "it.", ["And so " + "on " * 12 + "it."]),
        ("lower case begins here.  Ends without a stop", []),
        ("Caf\u00e9s are nice places.\n\n  A new paragraph\n  starts here.", ["A new paragraph starts here."]),
        (
            "He is on, isn't he?  Rock 'n' roll, it's the dogs' life.",
            ["He is on, isn't he?", "Rock 'n' roll, it's the dogs' life."],
        ),
    ],
)
def test_sentences(recipe, cookie, expected):
    import fortunes

    assert list(fortunes.sentences_of(cookie)) == expected


def test_files_of_fortunes(recipe, tmp_path):
    import fortunes

    (tmp_path / "wisdom").write_bytes(b"All is well.\n%\nAll is bad.\n\t-- X\n%\nThis is caf\xe9. It is fine.\n")
    (tmp_path / "art").write_text("Art is long.\n%\n")
    for other in ("wisdom.dat", "perl", "ascii-art"):
        (tmp_path / other).write_text("This is no prose.\n")
    (tmp_path / "wisdom.u8").symlink_to("wisdom")
    assert list(fortunes.sentences(tmp_path)) == ["Art is long.", "All is well.", "All is bad.", "It is fine."]


def test_every_text_once_and_none_that_is_held_out(recipe):
    sources = [
        ["Yes, we do!", "Never.", "...", "In the test."],
        ["yes we DO", "Not in the test?", "in \u201cThe\u201d test"],
    ]
    chosen = list(recipe.choose(sources, ["In the test!"], "en"))
    assert sorted(chosen[:2]) == ["Never.", "Yes, we do!"] and chosen[2:] == ["Not in the test?"]
    reordered = recipe.choose([sources[0][::-1], sources[1][::-1]], ["In the test!"], "en")
    assert list(reordered) == chosen


def digest(loaded):
    samples, rate = loaded
    return hashlib.sha1(f"{rate} ".encode() + samples.tobytes()).hexdigest()


def test_same_sentence_same_samples_wherever_and_whenever(recipe):
    one, other, *_ = recipe.utterances(["Boom goes the ape in the jungle.", "Something else."], "en", 0.01)
    assert one.split == "train" and one.speaker in recipe.espeak.voices("en")
    first = digest(one.load())
    other.load()
    assert digest(one.load()) == first
    # the first sentence of another process
    code = (
        "import pickle, sys; sys.path.insert(0, sys.argv[1]); from hashlib import sha1\n"
        "samples, rate = pickle.load(sys.stdin.buffer)()\n"
        "print(sha1(f'{rate} '.encode() + samples.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, LOCAL], input=pickle.dumps(one.load), capture_output=True)
    assert done.stdout.decode().strip() == first, done.stderr.decode()


def test_an_utterance_depends_on_no_other(recipe):
    alone = list(recipe.utterances(["The same sentence again."], "en", 0.003))
    among = list(recipe.utterances(["Something else.", "The same sentence again."], "en", 0.006))
    assert len(alone) > 2 and len({one.id for one in alone}) == len(alone)  # takes, each in its own voice
    assert len({(one.speaker, one.load.args) for one in alone}) == len(alone)
    assert [one for one in among if one.text == alone[0].text][0].load.args == alone[0].load.args
    assert len({one.split for one in alone}) == 1
    assert list(recipe.utterances([], "en", 1)) == []


def test_every_voice_speaks_without_clipping(recipe):
    voices = recipe.espeak.voices("en")
    assert len(voices) > 100 and {"en+m1", "en-US+f3", "en-GB-x-rp+klatt"} <= set(voices)
    assert not any("whisper" in voice or "Shaw" in voice for voice in voices)
    for voice in voices[::17]:
        samples, rate = recipe.espeak.speak("what is the plan, you fool?", voice, 175, 50, 1)
        assert rate == 22050 and samples.dtype == np.float32
        assert 0.8 < len(samples) / rate < 3 and 0.05 < np.abs(samples).max() < 0.999
    with pytest.raises(ValueError, match="nonsense"):
        recipe.espeak.speak("hello", "nonsense+f1", 175, 50, 1)
    with pytest.raises(ValueError, match="does not speak"):
        recipe.espeak.speak("...", "en+f1", 175, 50, 1)
    with pytest.raises(UserError, match="no voice for the language 'xx'"):
        recipe.espeak.voices("xx")


def test_channel(recipe):
    tone = np.sin(2 * np.pi * 1050 * np.arange(22050) / 22050).astype(np.float32)
    peaks, snrs = [], []
    for seed in range(20):
        heard = recipe.channel(tone, np.random.default_rng(seed))
        assert heard.dtype == np.float32 and heard.shape == tone.shape
        peaks.append(np.abs(heard).max())
        power = np.abs(np.fft.rfft(heard)) ** 2
        snrs.append(10 * np.log10(power[1050] / np.delete(power, 1050).sum()))
    assert 0.099 < min(peaks) < 0.3 < max(peaks) < 0.9
    assert 14 < min(snrs) < 22 and 30 < max(snrs) < 41


@pytest.fixture
def transcripts(tmp_path):
    """The data folder of another recipe: its manifests, as far as texts go."""

    def write(**splits):
        folder = tmp_path / "other/manifests"
        folder.mkdir(parents=True)
        for split, texts in splits.items():
            with gzip.open(folder / f"cuts_{split}.jsonl.gz", "wt", encoding="utf-8") as file:
                for text in texts:
                    supervision = {"text": text.lower().strip("!."), "custom": {"text_raw": text}}
                    file.write(json.dumps({"supervisions": [supervision]}) + "\n")
        return folder.parent

    return write


TRAIN = [f"{a} {b} it!" for a in ("We", "You", "They", "I") for b in ("saw", "took", "knew", "had", "like", "want")]


def test_whole_recipe_on_made_up_transcripts(recipe, transcripts, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "BOUNDS", (("test", 20), ("dev", 40), ("train", 100)))
    other = transcripts(train=[*TRAIN, "Not this."], dev=["not this."], test=["Nor that."])
    out = tmp_path / "data"
    recipe.main(out=out, hours=0.012, transcripts_of=[other], use_fortunes=False, language="en", deb=None, jobs=1)
    report = json.loads((out / "report.json").read_text())
    assert report["dropped"] == 0 and not (out / "download").exists()
    assert 0.5 * 0.72 < report["splits"]["total"]["minutes"] < 1.5 * 0.72
    spoken, texts = [], {}
    for split in ("train", "dev", "test"):
        cuts = lhotse.CutSet.from_file(out / f"manifests/cuts_{split}.jsonl.gz").to_eager()
        lhotse.validate(cuts)
        spoken += [cut.supervisions[0] for cut in cuts]
        texts[split] = {cut.supervisions[0].text for cut in cuts}
    assert {one.custom["text_raw"] for one in spoken} == set(TRAIN) and len(spoken) > len(TRAIN)
    assert not texts["train"] & (texts["dev"] | texts["test"]) and not texts["dev"] & texts["test"]
    assert len({one.speaker for one in spoken}) > 10


def fails(recipe, capsys, tmp_path, **options):
    known = {"hours": 0.001, "transcripts_of": None, "use_fortunes": False, "language": "en", "deb": None, "jobs": 1}
    with pytest.raises(SystemExit) as caught:
        recipe.main(out=tmp_path / "data", **{**known, **options})
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.count("\n") == 1 and said.startswith("error: ")
    return said


def test_what_the_user_can_mend_is_one_line(recipe, transcripts, tmp_path, capsys, monkeypatch):
    other = transcripts(train=TRAIN, dev=["Not this."])
    assert "no cuts_test.jsonl.gz in it" in fails(recipe, capsys, tmp_path, transcripts_of=[other])
    (other / "manifests/cuts_test.jsonl.gz").write_bytes((other / "manifests/cuts_train.jsonl.gz").read_bytes()[:-20])
    assert "cuts_test.jsonl.gz is damaged" in fails(recipe, capsys, tmp_path, transcripts_of=[other / "manifests"])
    assert "add --no-fortunes" in fails(recipe, capsys, tmp_path, language="ru", use_fortunes=True)
    assert "no texts: give --transcripts" in fails(recipe, capsys, tmp_path)
    (other / "manifests/cuts_test.jsonl.gz").write_bytes((other / "manifests/cuts_dev.jsonl.gz").read_bytes())
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    said = fails(recipe, capsys, tmp_path, transcripts_of=[other])
    assert "pip install -c tools/constraints.txt espeakng-loader" in said


def test_command_line():
    shown = subprocess.run([sys.executable, LOCAL / "prepare.py", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "--no-fortunes" in shown.stdout and "Example:" in shown.stdout


def test_the_encoder_is_as_large_as_the_ones_that_start_from_it(recipe):
    check_bounds(recipe.BOUNDS)
    synth = load_config([RECIPE / "conf/corpus.yaml"])
    for other in ("fotaq", "festvox_ru"):
        target = load_config([ROOT / f"egs/{other}/conf/{name}.yaml" for name in ("corpus", "full")])
        no_size = {"exits": {}, "dropout": 0.0}
        assert {**vars(synth.model), **no_size} == {**vars(target.model), **no_size}
    quick = load_config([RECIPE / f"conf/{name}.yaml" for name in ("corpus", "quick")])
    assert quick.student_layers < quick.model.layers and synth.student_layers < synth.model.layers
