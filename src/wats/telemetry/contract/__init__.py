"""What `/metrics` can expose: label values, labels and families."""
