"""The Token lens tab: what post-training changed in a reply, token by token, and what else could have been."""
