"""The competition on Kaggle."""

COMPETITION = "digit-recognizer"
HOME = f"https://www.kaggle.com/competitions/{COMPETITION}"
SUBMIT_PAGE = f"{HOME}/submit"
