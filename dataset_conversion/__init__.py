"""Conversion scripts: one file per data set on one writer."""
