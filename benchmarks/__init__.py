"""Speed. Every benchmark prints a table and ends with one line of JSON; ratios are measured side by side in one run."""
