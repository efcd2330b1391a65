"""Small helpers of all rewards."""
