"""The competition on Kaggle."""

COMPETITION = "digit-recognizer"
HOME = f"https://www.kaggle.com/competitions/{COMPETITION}"
