"""The Studies tab: how often, instead of once."""
