"""One file per command: its arguments and what it does.

A command's module is imported when the command is chosen. Arguments are parsed and checked before PyTorch, nnU-Net or
pandas are imported, so that help and refusals come at once: a module imports them inside :func:`run`.
"""
