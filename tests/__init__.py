"""The tests. A package on purpose: gmqtt installs one of the name `tests`, which wins over a mere folder."""
