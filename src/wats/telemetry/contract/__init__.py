"""What `/metrics` can expose: label values, labels, families, and the schema of all of them."""
