"""Configuration: files become frozen structs, completely checked, item by item."""
