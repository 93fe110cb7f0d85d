"""Training on one machine or many, on verl.

`run` and what it uses (`mapping`, `export`, `launch`) prepare a run and start verl. What runs inside verl reads the run
directory: `plugin`, the only importer of verl, with `teaching`, `grading` and `recording`. None of it imports TRL or
Transformers, of which verl has a version of its own.
"""
