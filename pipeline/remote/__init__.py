"""Training elsewhere: on a Ray cluster, or on Kaggle."""
