"""Cold start on photographs: true chains, true pictures, and an expert of restorations."""
