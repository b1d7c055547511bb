"""The Receipts tab: replays, differences, files to take along."""
