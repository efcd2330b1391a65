"""Planning: which processes go where, what they hold and send, before anything starts."""
