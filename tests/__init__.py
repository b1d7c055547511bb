"""Tests: each names a property; none needs a network."""
