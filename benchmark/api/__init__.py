"""The Python API behind ``import sidbench as sb``: arrays and objects in, DataFrames out; one small file a topic."""
