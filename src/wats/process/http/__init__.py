"""HTTP/1.1 connections, from bytes to requests and back."""
