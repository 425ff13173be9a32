"""``asyncpc completion bash|zsh``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from typing import Final

from ..errors import DefinitionError

__all__ = ["FILES", "completion_of"]

FILES: Final = {"bash": "_shtab_compgen_files", "zsh": "_files"}
"""What shtab calls the completion of files, as the attribute ``complete`` of an argument: its ``FILE``."""


def completion_of(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell."""
    try:
        import shtab
    except ImportError as error:
        raise DefinitionError("completion needs shtab: pip install 'asyncpc[completion]'") from error
    return shtab.complete(parser, shell)
