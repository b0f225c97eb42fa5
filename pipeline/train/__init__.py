"""Stage 4: train a network for each fold. `fold.py` trains one; `engines.py` decides where."""
