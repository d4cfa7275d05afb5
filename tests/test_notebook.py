"""The notebook runs from top to bottom, and shows what it says."""

import nbformat
from conftest import ROOT

PATH = ROOT / 'docs/notebooks/first_hour.ipynb'


def committed() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)
