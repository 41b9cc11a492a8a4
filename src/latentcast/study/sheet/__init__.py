"""Pictures of one request: the filmstrip of a delivery, and the sheet that compares policies on it."""
