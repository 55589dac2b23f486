"""The API for applications, one module for each noun."""
