"""OpenAI's API under /v1: what is asked (asked.py), how answers look (answers.py), and the routes (routes.py)."""
