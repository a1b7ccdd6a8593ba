"""Stands in for setuptools where pip downloads a source archive: see data_sets/packages.py."""
