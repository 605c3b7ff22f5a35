"""The frozen settings of a proxy, and TOML made into them."""

from __future__ import annotations

from fwproxy.config.config import (
    Config,
    DatapathConfig,
    LedgerConfig,
    Limits,
    LogConfig,
    ProcessConfig,
    SecondaryConfig,
    TimesConfig,
)
from fwproxy.config.listeners import ListenerConfig
from fwproxy.config.resolver import ResolverConfig

__all__ = [
    "Config",
    "DatapathConfig",
    "LedgerConfig",
    "Limits",
    "ListenerConfig",
    "LogConfig",
    "ProcessConfig",
    "ResolverConfig",
    "SecondaryConfig",
    "TimesConfig",
]
