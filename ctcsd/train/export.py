"""One exit of a trained model, alone in a folder, to hand on."""

from __future__ import annotations

from pathlib import Path

from ctcsd.config import save_config
from ctcsd.errors import UserError
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import CONFIG_FILE, load_model, save_model


def export_run(run: Path, exit: str, out: Path) -> int:
    """Write model, config and token table of a run cut off above an exit; `load_model(out)` reads them.

    Returns:
        the number of parameters.

    Raises:
        UserError: the run is not trained, has no such exit, or `out` holds something.
    """
    table = TokenTable.load(run)
    model, cfg = load_model(run, table.fingerprint)
    alone = model.truncate(exit)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give another folder")
    out.mkdir(parents=True, exist_ok=True)
    cfg.model = alone.cfg
    save_config(cfg, out / CONFIG_FILE)
    (out / "tokens.txt").write_text(table.text, encoding="utf-8")
    save_model(alone, out, table.fingerprint)
    return alone.num_parameters()
