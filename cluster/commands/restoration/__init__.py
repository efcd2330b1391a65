"""Commands about photographs: restore them, and score folders of restored ones."""
