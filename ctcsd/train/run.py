"""Stage 3 for one run folder: train one method on one corpus, unless that was done, and never over another run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ctcsd.config import PHONE_KEYS, Config
from ctcsd.data.features import cuts_file
from ctcsd.data.shar import INDEX
from ctcsd.errors import UserError
from ctcsd.lock import locked
from ctcsd.posteriors import MANIFEST
from ctcsd.run_dir import RunDir
from ctcsd.stamp import changed, depends, mark, up_to_date
from ctcsd.text.tokenizer import DICTIONARY
from ctcsd.train.checkpoint import CONFIG_FILE, MODEL_FILE
from ctcsd.train.fit import build, fit
from ctcsd.train.method import resolve_depends
from ctcsd.train.processes import is_first, one_voice

# What may change without making the same training another one.
NEUTRAL = {
    "data": ("test", "more_tests", "workers", "keep_mib", "max_bad"),
    "lang": ("lm_order", "lm_text", "lm_prune", "lm_arpa", *PHONE_KEYS),  # dictionary.txt counts for those of phones
    "train": (
        *("save_minutes", "guard", "split_on_oom", "preflight"),
        *("devices", "nodes", "strategy", "accumulate", "threads"),
    ),
}


@one_voice()
def fit_run(cfg: Config, data_dir: Path, lang_dir: Path, run_dir: Path) -> None:
    """Stage 3: train unless it was done; go on with an interrupted training of the same configuration.

    A run of another configuration, data or lang dir in the same folder is moved aside to `.old/` beside it, once the
    new one is known to fit together. Two trainings never write into one folder.

    Raises:
        UserError: as `fit`; or the folder holds something else than a run, or what it depends on is not trained.
    """
    resolve_depends(cfg, run_dir)
    options = {key: value for key, value in dataclasses.asdict(cfg).items() if key not in ("decode", "score")}
    for section, ignored in NEUTRAL.items():
        options[section] = {key: value for key, value in options[section].items() if key not in ignored}
    if not cfg.data.shar:  # of which alone there are streams
        del options["data"]["shar"], options["data"]["streams"]
    _by_content(options, cfg)
    train = Path(cfg.data.shar) / INDEX if cfg.data.shar else cuts_file(data_dir, cfg, cfg.data.train)
    inputs = [train, cuts_file(data_dir, cfg, cfg.data.dev), lang_dir / "tokens.txt"]
    if (dictionary := lang_dir / DICTIONARY).is_file():
        inputs.append(dictionary)
    for other in (cfg.distill.checkpoint, cfg.init_from):
        inputs += [Path(other) / name for name in (MODEL_FILE, CONFIG_FILE)] if other else []
    if cfg.distill.archive:
        inputs.append(Path(cfg.distill.archive) / MANIFEST)
    if (backbone := Path(cfg.model.backbone)).is_dir():
        inputs += [path for path in sorted(backbone.iterdir()) if path.suffix in (".json", ".safetensors", ".bin")]
    needs = depends(options, inputs)
    done = RunDir(run_dir).train_marker
    if up_to_date(f"training of {run_dir}", done, needs, [run_dir / "train.json", run_dir / MODEL_FILE], keep=True):
        return
    if not is_first():  # that one looks after the folder
        fit(*build(cfg, data_dir, lang_dir), run_dir)
        return
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with locked(run_dir.parent / f".{run_dir.name}.lock", f"another training is writing into {run_dir}"):
        module, data = build(cfg, data_dir, lang_dir)
        _begin(run_dir, needs)
        result = fit(module, data, run_dir)
        mark(done, needs)
    print(f"{run_dir}: {result['seconds'] / 60:.1f} minutes, peak memory {result['peak_memory_mib']} MiB")


def _by_content(options: dict[str, Any], cfg: Config) -> None:
    """Paths out of the options, but that there is one: what lies there counts by its content, wherever it is."""
    options["init_from"] = bool(cfg.init_from)
    options["distill"].update(checkpoint=bool(cfg.distill.checkpoint), archive=bool(cfg.distill.archive))
    if cfg.data.shar:
        options["data"]["shar"] = True
    if Path(cfg.model.backbone).is_dir():
        options["model"]["backbone"] = True


def _begin(run_dir: Path, needs: dict[str, Any]) -> None:
    """Leave run_dir holding nothing, or an interrupted run of the same needs; another run is moved to `.old/`."""
    begun = run_dir / ".begun"
    if run_dir.exists() and any(run_dir.iterdir()) and changed(begun, needs):
        if not begun.is_file():
            raise UserError(f"{run_dir} is not empty and holds no run: give another folder")
        number = 1
        while (aside := run_dir.parent / ".old" / f"{run_dir.name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        run_dir.rename(aside)
        print(f"an earlier run of another configuration was moved to {aside}")
    run_dir.mkdir(exist_ok=True)
    mark(begun, needs)
