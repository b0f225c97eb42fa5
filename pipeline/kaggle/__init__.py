"""The exchange with Kaggle: the official client with deadlines and retries, and the ledger."""
