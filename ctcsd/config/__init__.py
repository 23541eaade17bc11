"""The typed configuration: what can be set (schema), how files and overrides set it (load), and methods' files."""

from ctcsd.config.load import load_config, save_config, search_config
from ctcsd.config.methods import METHODS_DIR, method_config, method_file, method_name
from ctcsd.config.schema import (
    CONFORMER,
    PHONE_KEYS,
    AugmentConfig,
    Config,
    DataConfig,
    DecodeConfig,
    DistillConfig,
    FeaturesConfig,
    LangConfig,
    ModelConfig,
    ScoreConfig,
    TrainConfig,
)

__all__ = [
    "CONFORMER",
    "METHODS_DIR",
    "PHONE_KEYS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "DistillConfig",
    "FeaturesConfig",
    "LangConfig",
    "ModelConfig",
    "ScoreConfig",
    "TrainConfig",
    "load_config",
    "method_config",
    "method_file",
    "method_name",
    "save_config",
    "search_config",
]
