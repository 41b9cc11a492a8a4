"""The law of the bits that one slot carries, prepared once per link."""
