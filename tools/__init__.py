"""What maintainers run by hand to renew a committed file, and what the site of the documentation is built with; no part of the product."""
