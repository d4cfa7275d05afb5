"""A drawn world in which the whole chain is trained and measured (docs/toyworld.md).

The tools that draw, train and measure it are in ``tools/toyworld``.
"""
