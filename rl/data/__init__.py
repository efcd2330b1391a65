"""Pictures in files, and sources of prompts."""
