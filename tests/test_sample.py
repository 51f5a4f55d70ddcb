"""The sample work is a work: long, varied, noisy where real scripts are, and its companions are whole."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.extract import ExtractParams, Tally, extract, find_sources
from stages.lore import read_lore
from stages.params import load_params
from tests.variety import LEADS, openings, skeletons

ROOT = Path(__file__).parent.parent
WORK = ROOT / "raw" / "sample"
