"""Commands of `vlcot`: a light file each, and what they do where it is no run."""
