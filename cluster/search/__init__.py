"""`vlcot search`: Ray Tune over whole runs."""
