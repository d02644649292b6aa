"""Conversion scripts: one file a data set on one writer."""
