"""What maintainers run by hand to renew a committed file; no part of the product."""
