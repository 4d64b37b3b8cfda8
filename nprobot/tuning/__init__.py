"""Search for settings: the tuner behind `nprobot tune`.

`study.search` needs Optuna (`pip install 'nprobot[tune]'`); nothing else here does.
"""
