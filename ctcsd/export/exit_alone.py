"""One exit of a trained model, alone in a folder, to hand on."""

from __future__ import annotations

import shutil
from pathlib import Path

from ctcsd.config import save_config
from ctcsd.errors import UserError
from ctcsd.export.onnx_model import INT8_FILE, ONNX_FILE, check_exportable, export_onnx, quantize
from ctcsd.revision import revision
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import CONFIG_FILE, load_model, save_model


def export_run(run: Path, exit: str, out: Path, onnx: bool = False, int8: bool = False) -> int:
    """Write model, config, token table and prior (where there is one) of a run cut off above an exit.

    `load_model(out)` reads them.

    Args:
        onnx: write `model.onnx` beside them; int8: and `model.int8.onnx`.

    Returns:
        the number of parameters.

    Raises:
        UserError: the run is not trained, has no such exit, or `out` holds something; as `export_onnx`.
    """
    table = TokenTable.load(run)
    model, cfg = load_model(run, table.fingerprint)
    alone = model.truncate(exit)
    if onnx or int8:
        check_exportable(alone)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give another folder")
    out.mkdir(parents=True, exist_ok=True)
    if onnx or int8:
        about = {"model_author": "ctcsd", "revision": revision(), "method": cfg.method, "exit": exit}
        export_onnx(alone, exit, out / ONNX_FILE, about)
    if int8:
        quantize(out / ONNX_FILE, out / INT8_FILE)
    if (prior := RunDir(run).prior(exit)).is_file():
        RunDir(out).prior(exit).parent.mkdir()
        shutil.copyfile(prior, RunDir(out).prior(exit))
    (out / "tokens.txt").write_text(table.text, encoding="utf-8")
    cfg.model = alone.cfg
    save_config(cfg, out / CONFIG_FILE)
    save_model(alone, out, table.fingerprint)
    return alone.num_parameters()
