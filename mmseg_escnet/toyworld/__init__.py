"""A synthetic world to train and evaluate everything end to end (docs/toyworld.md)."""
